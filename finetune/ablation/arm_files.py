"""The answers of one arm on disk, as numbers, with the inputs that must be the same for them to be reused."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from finetune.evaluation.answers import Answers
from interp.model.blank_images import BLANKS
from interp.runtime.errors import InputError, first_line
from interp.schemas.ablation import ArmRecord
from interp.schemas.layer_list import layers_text
from interp.schemas.read import newest_version
from interp.storage.atomic import atomic_file
from interp.storage.json_files import refuse_newer

RECORD = "gatescope"
"""Key of the record in the attributes of a table."""


def file_name(kind: str, layers: Iterable[int], seed: int) -> str:
    """File name of an arm: its kind, its layers with runs written as 4-5, and its seed."""
    return f"{kind}_{layers_text(list(layers)).replace(', ', '_')}_seed{seed}.parquet"


def write_answers(path: Path, answers: Answers, record: ArmRecord) -> None:
    """Write one row per wording, in the order of the prompt table, and the record, atomically."""
    columns = {"margin": answers.margin, "right_token": answers.right_token}
    columns |= {f"blank_{kind}": answers.blank_margin[kind] for kind in BLANKS}
    columns |= {f"swap_{k}": swapped for k, swapped in enumerate(answers.swapped_margin.T)}
    # Margins are measured in float32.
    table = pd.DataFrame({n: c if c.dtype == bool else c.astype(np.float32) for n, c in columns.items()})
    table.attrs[RECORD] = record.model_dump_json()
    with atomic_file(path) as partial:
        table.to_parquet(partial, index=False)


def read_answers(path: Path) -> tuple[Answers, ArmRecord]:
    """Read what `write_answers` wrote. Raises InputError for a file that is damaged or of a newer schema."""
    try:
        table = pd.read_parquet(path)
        text = table.attrs[RECORD]
        version = int(json.loads(text)["schema_version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from None
    refuse_newer(path, version, newest_version(ArmRecord))
    try:
        record = ArmRecord.model_validate_json(text)
        margin = table["margin"].to_numpy(float)
        blank = {kind: table[f"blank_{kind}"].to_numpy(float) for kind in BLANKS}
        swapped = table.filter(regex=r"^swap_\d+$").to_numpy(float)
        right = table["right_token"].to_numpy(bool)
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from None
    nothing = np.full(len(margin), np.nan)
    return Answers(margin, right, blank, swapped, np.full(len(margin), None, dtype=object), nothing), record


def _damaged(path: Path, error: Exception) -> InputError:
    reason = first_line(error)
    return InputError(f"{path}: not the answers of an arm ({reason}). Remove the file, and the arm is run again.")

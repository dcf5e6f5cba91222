"""items.parquet: what a search or an evaluation measured on every single wording, for tables and for `interp compare`.

Questions and patients are named by keys that only who has the questions can trace back (`interp.questions.item_keys`).
Ids and wordings are in the file only if `--include-text` asked for them.
"""

import json
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import Field

from interp.runtime.errors import InputError, first_line
from interp.schemas.read import newest_version
from interp.schemas.record import Record
from interp.storage.atomic import atomic_file
from interp.storage.json_files import refuse_newer

ItemKind = Literal["search", "evaluation"]
ITEMS = "items.parquet"
"""Name of the file in the folder of a search; beside EVALUATION.json it is EVALUATION_items.parquet."""
RECORD = "gatescope"
"""Key of the record in the attributes of a table."""
TEXT = {
    "id": "id of the question in its file",
    "original": "original wording",
    "text": "wording of the row",
}
"""Column that only `--include-text` writes -> what it holds."""
QUESTION = {
    "question_key": "key of the question, a salted hash",
    "patient_key": "key of the patient, or of the image where patients are unknown, a salted hash",
    "wording": "number of the wording in its question; 0 is the original",
    "type": "type of the question",
    "finding": "finding of the lexicon that the original wording names, or other",
    "phenomenon": "what the paraphrase changed, untagged where unknown",
    "registers": "register of the original and of the wording, as formal-casual; null where untagged",
    "answer": "true answer to a yes/no question; null where unknown",
}
"""Column that says what was asked -> what it holds."""
SEARCH_ITEMS = QUESTION | {
    "margin_original": "answer margin of the original wording [logits]",
    "margin_wording": "answer margin of this wording [logits]",
    "flipped": "whether the two answers differ",
    "banked": "whether the pair is in the flip bank",
    "held_out": "whether the pair is of the held-out half, on which features are tested",
    "delta": "change of the first feature's activation, wording - original; 0 if no feature was tested",
    "recovery": "share of the margin shift that the first feature's patch recovers; null where it was not patched",
}
"""Column of the items of a search, one row per pair of an original and another wording -> what it holds."""
EVALUATION_ITEMS = {
    "arm": "arm that is compared with the base",
    **QUESTION,
    "closed": "whether the question asks for yes or no",
    "margin_before": "answer margin with the base [logits]; means nothing for open questions",
    "margin_after": "answer margin with the arm [logits]",
    "blank_margin_before": "answer margin with the base and a grey image [logits]; null for open questions",
    "blank_margin_after": "answer margin with the arm and a grey image [logits]",
    "correct_before": "whether the base's margin gives the true answer; null without a yes/no answer",
    "correct_after": "whether the arm's margin gives the true answer",
    "first_token_before": "whether the base's most probable first token is that of the true answer",
    "first_token_after": "the same for the arm",
    "flipped_before": "whether the base answers this wording otherwise than the original; null for the original",
    "flipped_after": "whether the arm answers this wording otherwise than the original",
    "quadrant_grey_before": "quadrant of the question with the base, reliance by the grey image; null without pairs",
    "quadrant_grey_after": "the same with the arm",
    "quadrant_any_before": "quadrant with the base, reliance by any blank image or another patient's",
    "quadrant_any_after": "the same with the arm",
    "quadrant_opposite_before": "quadrant with the base, reliance by an image with the opposite answer; null without",
    "quadrant_opposite_after": "the same with the arm",
}
"""Column of the items of an evaluation, one row per arm and wording -> what it holds."""
COLUMNS: dict[ItemKind, dict[str, str]] = {"search": SEARCH_ITEMS, "evaluation": EVALUATION_ITEMS}


def evaluation_items_path(evaluation: Path) -> Path:
    """Where the items of an evaluation are: artifacts/evaluation_items.parquet beside artifacts/evaluation.json."""
    return evaluation.with_name(f"{evaluation.stem}_{ITEMS}")


class ItemsRecord(Record):
    """What stands in the attributes of items.parquet."""

    schema_version: int = Field(default=1, description="version of this schema")
    kind: ItemKind = Field(description="what measured the items: a search or an evaluation")
    data: str = Field(description="hash of the questions, as in layers.json or evaluation.json")
    with_text: bool = Field(description="whether ids and wordings are in the table")


def write_items(path: Path, table: pd.DataFrame, kind: ItemKind, data: str, include_text: bool = False) -> None:
    """Write the items of a search or an evaluation atomically; `data` is the hash of its questions.

    `table` has the columns of COLUMNS[kind], and those of TEXT, which are written only with `include_text`.
    """
    names = [*(TEXT if include_text else ()), *COLUMNS[kind]]
    kept = table[names].reset_index(drop=True)
    kept.attrs = {RECORD: ItemsRecord(kind=kind, data=data, with_text=include_text).model_dump_json()}
    with atomic_file(path) as partial:
        kept.to_parquet(partial, index=False)


def read_items(path: Path, kind: ItemKind) -> tuple[pd.DataFrame, ItemsRecord]:
    """The items that `write_items` wrote, and their record.

    Raises InputError if the file is absent or damaged, of another kind, or of a newer schema.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file. Run the command again with --keep-items to write it.")
    try:
        table = pd.read_parquet(path)
        content: dict[str, Any] = json.loads(table.attrs[RECORD])
    # pyarrow raises exceptions of several kinds for damaged bytes.
    except Exception as error:
        raise InputError(f"{path}: no items of GateScope ({first_line(error)}). Write it again.") from None
    refuse_newer(path, content.get("schema_version"), newest_version(ItemsRecord))
    if content.get("kind") != kind:
        raise InputError(f"{path}: found the items of kind {content.get('kind')!r}, expected {kind!r}.")
    if missing := [name for name in COLUMNS[kind] if name not in table]:
        raise InputError(f"{path}: has no column {missing[0]!r}. Write it again with --keep-items.")
    table.attrs = {}
    return table, ItemsRecord.model_validate(content)

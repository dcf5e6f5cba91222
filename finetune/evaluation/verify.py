"""`finetune verify`: are the numbers of an adapter's evaluation really from this adapter, base and questions?

What each question was answered is not written, so there is no sample to compare with: the evaluation is made again.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.evaluation.arms import adapter_arm, base_arm, known_texts
from finetune.evaluation.evaluate import evaluate
from finetune.lora.adapter_folder import AdapterRecord, read_record
from interp.model.vlm import Vlm
from interp.questions.schema import Question
from interp.questions.tables import fingerprint
from interp.runtime.errors import InputError
from interp.schemas.evaluation import Comparison, Evaluation
from interp.schemas.read import read_record as read_json
from interp.storage.checks import Check, files_check, near, same
from interp.storage.checksums import weights_fingerprint
from interp.storage.manifest import read_manifest

EVALUATION = "evaluation.json"
RATES = {"float32": 1e-3, "bfloat16": 0.02, "float16": 0.02}
"""Arithmetic -> what a rate or a mean margin [logits] may differ by: margins next to zero flip with their rounding."""
ESTIMATES = {"before", "after", "difference"}


def read_recorded(folder: Path) -> tuple[AdapterRecord, Evaluation]:
    """The record and the evaluation of an adapter folder.

    Raises InputError for a folder that `finetune` did not write, and for records that can not be read.
    """
    record = read_record(folder)
    if record is None or not (folder / EVALUATION).is_file():
        raise InputError(f"{folder}: no gatescope.json and {EVALUATION}. Name a folder that `finetune --out` wrote.")
    claimed = read_json(folder / EVALUATION, Evaluation)
    if len(claimed.arms) != 2:
        raise InputError(f"{folder / EVALUATION}: not the evaluation of an adapter beside its base.")
    return record, claimed


def verify_adapter(
    folder: Path,
    record: AdapterRecord,
    claimed: Evaluation,
    vlm: Vlm,
    taught: Sequence[Question],
    asked: Sequence[Question],
) -> list[Check]:
    """What an adapter folder claims (`read_recorded`), beside what is found now.

    `vlm` is the base, in the arithmetic and asked with the prompt of the record; `taught` are the questions of the
    training, `asked` those of the evaluation. Raises InputError if the adapter is damaged or does not fit the base.
    """
    files, manifest = files_check(folder), read_manifest(folder)
    checks = [] if files is None else [files]
    if manifest is not None and "base_weights" in manifest.inputs:
        digest = weights_fingerprint(vlm.model)
        checks.append(same("base, digest of weights", manifest.inputs["base_weights"], digest))
    checks.append(same("questions trained on, digest", record.data, fingerprint(taught)))
    checks.append(same("questions asked, digest", claimed.data, fingerprint(asked)))
    arms = [base_arm(), adapter_arm(vlm, folder, list(claimed.arms)[1], record)]
    evaluation = evaluate(vlm, arms, asked, known_texts([record]), claimed.seed, tolerance=claimed.tolerance)
    found = Evaluation.model_validate_json(evaluation.to_json())
    labels = [{name: verdict.label for name, verdict in each.verdicts.items()} for each in (claimed, found)]
    checks.append(same("verdict", *labels))
    before, now = _estimates(claimed.comparisons), _estimates(found.comparisons)
    for kind in dict.fromkeys([*before, *now]):
        checks.append(near(f"measures, {kind}", before.get(kind), now.get(kind), RATES[record.model.dtype]))
    return checks


def _estimates(comparisons: Sequence[Comparison]) -> dict[str, dict[str, Any]]:
    """Kind of the group -> group and measure -> the estimates; p values follow from the same counts."""
    found: dict[str, dict[str, Any]] = {}
    for each in comparisons:
        name = f"{each.subset}, {each.measure}"
        found.setdefault(each.kind, {})[name] = each.model_dump(include=ESTIMATES)
    return found

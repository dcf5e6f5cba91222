"""`finetune verify`: do an adapter's evaluation and record belong to this adapter, base and questions?

The answers to single questions are not written, so there is no sample to compare: the evaluation is made again.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.evaluation.arms import adapter_arm, base_arm, known_texts
from finetune.evaluation.evaluate import evaluate
from finetune.evaluation.result import Evaluation
from finetune.lora.adapter_folder import read_record
from interp.model.vlm import Vlm
from interp.questions.schema import Question
from interp.questions.tables import fingerprint
from interp.runtime.errors import InputError
from interp.schemas.adapter import AdapterRecord
from interp.schemas.evaluation import Comparison
from interp.schemas.read import read_artifact
from interp.storage.checks import Check, files_check, near, same
from interp.storage.checksums import weights_fingerprint
from interp.storage.folders import check_folder
from interp.storage.manifest import read_manifest

EVALUATION = "evaluation.json"
RATES = {"float32": 1e-3, "bfloat16": 0.02, "float16": 0.02}
"""Arithmetic -> how much a rate or a mean margin [logits] may differ, since rounding flips margins close to zero."""
ESTIMATES = {"before", "after", "difference"}
Estimates = dict[str, dict[str, Any]]
"""Kind of group -> group and measure -> the estimates."""
LARGEST_DISPERSION = 100
"""Margin dispersion above which rounding decides it: the questions of a group then have nearly equal margins, whose
spread it divides by."""


def read_recorded(folder: Path) -> tuple[AdapterRecord, Evaluation]:
    """The record and the evaluation in an adapter folder.

    Raises InputError for a folder that `finetune` did not write, and for files that are damaged or too new.
    """
    check_folder(folder, "Give the one that `finetune --out` wrote.")
    record = read_record(folder)
    path = folder / EVALUATION
    if record is None or not path.is_file():
        raise InputError(f"{folder}: found no gatescope.json and {EVALUATION}. Give a folder that `finetune` wrote.")
    recorded = read_artifact(path, Evaluation)
    if len(recorded.arms) != 2:
        raise InputError(f"{path}: found {len(recorded.arms)} arms, expected the base and one adapter.")
    return record, recorded


def verify_adapter(
    folder: Path,
    record: AdapterRecord,
    recorded: Evaluation,
    vlm: Vlm,
    taught: Sequence[Question],
    asked: Sequence[Question],
) -> list[Check]:
    """Compare what an adapter folder records (`read_recorded`) with what is computed now.

    `vlm` is the base, with the arithmetic and the prompt of the record; `taught` are the training questions, `asked`
    those of the evaluation. Raises InputError if the adapter is damaged or does not fit the base.
    """
    files, manifest = files_check(folder), read_manifest(folder)
    checks = [] if files is None else [files]
    if manifest is not None and "base_weights" in manifest.inputs:
        digest = weights_fingerprint(vlm.model)
        checks.append(same("base, digest of weights", manifest.inputs["base_weights"], digest))
    checks.append(same("questions trained on, digest", record.data, fingerprint(taught)))
    checks.append(same("questions asked, digest", recorded.data, fingerprint(asked)))
    arms = [base_arm(), adapter_arm(vlm, folder, list(recorded.arms)[1], record)]
    found = evaluate(vlm, arms, asked, known_texts([record]), recorded.seed, tolerance=recorded.tolerance)
    labels = [{name: verdict.label for name, verdict in each.verdicts.items()} for each in (recorded, found)]
    checks.append(same("verdict", *labels))
    now = _estimates(found.comparisons)
    for kind, claimed in without_rounding(_estimates(recorded.comparisons), now).items():
        # Later versions measure more than an earlier one claims.
        again = {name: each for name, each in now.get(kind, {}).items() if name in claimed}
        checks.append(near(f"measures, {kind}", claimed, again, RATES[record.model.dtype]))
    return checks


def _estimates(comparisons: Sequence[Comparison]) -> Estimates:
    """Kind of group -> group and measure -> the estimates. P values are left out: they follow from the same counts."""
    found: Estimates = {}
    for each in comparisons:
        name = f"{each.subset}, {each.measure}"
        found.setdefault(each.kind, {})[name] = each.model_dump(include=ESTIMATES)
    return found


def without_rounding(claimed: Estimates, found: Estimates) -> Estimates:
    """What is claimed, but for margin dispersions that rounding decides: those above LARGEST_DISPERSION in both."""

    def decided(kind: str, name: str) -> bool:
        each = [of.get(kind, {}).get(name) for of in (claimed, found)]
        return name.endswith(", margin_dispersion") and all(map(_is_huge, each))

    return {kind: {n: each for n, each in named.items() if not decided(kind, n)} for kind, named in claimed.items()}


def _is_huge(estimates: dict[str, Any] | None) -> bool:
    values = [] if estimates is None else [estimates[side]["value"] for side in ("before", "after")]
    return any(value is not None and value > LARGEST_DISPERSION for value in values)

"""The tables of an evaluation on doubtful answers: which flips could be foretold, and what withholding them gains."""

from typing import NamedTuple

from interp.schemas.evaluation import Abstention, Evaluation, FlipDetection, FlipDetector
from interp.views.numbers import PERCENT, UNSCALED, number
from interp.views.table import Cell, Column, Table, count, estimate, tabulate, value, words

COVERAGE = 0.9
"""Coverage whose flips the table of detectors shows; one in ten questions is withheld."""


class _Detected(NamedTuple):
    """One detector on the flips of one arm."""

    flips: FlipDetection
    detector: FlipDetector


def detection_table(found: Evaluation) -> Table:
    """How well every detector foretells the flips of the base and of each arm; without rows for older files."""
    rows = [_Detected(each, detector) for each in found.detection for detector in each.detectors]

    def left(row: _Detected) -> Cell:
        return value(next((p.flip_rate for p in row.detector.curve if p.coverage == COVERAGE), None), PERCENT)

    said = ""
    if found.detector_features:
        said = f" Features: {', '.join(found.detector_features)}."
    return tabulate(
        "Which questions will flip?",
        [
            words("arm", lambda row: row.flips.arm),
            words("detector", lambda row: row.detector.name),
            Column("passes", lambda row: count(row.detector.passes)),
            Column("paraphrases read", lambda row: count(row.flips.probes)),
            Column("questions", lambda row: count(row.flips.questions)),
            Column("flips [%]", lambda row: estimate(row.flips.flip_rate, PERCENT)),
            Column("AUC", _auc),
            Column("flips of the surest 90% [%]", left),
        ],
        rows,
        "Flips are those of the paraphrases that are not read. Margin: |margin| of the original wording, and mean "
        "margin: |mean| over the wordings read, small where flips are expected. Dispersion: standard deviation over "
        "the wordings read. Scores of features are fitted on other patients. An AUC of .5 is chance. Brackets: 95% "
        f"intervals over patients; too few flips or patients have none.{said}",
    )


def _auc(row: _Detected) -> Cell:
    """The AUC; without an interval, why it has none."""
    found = row.detector.auc
    if found.value is None or found.low is not None or (rate := row.flips.flip_rate.value) is None:
        return estimate(found)
    flips = round(rate * row.flips.questions)
    few = min((flips, "flips"), (row.flips.questions - flips, "without a flip"))
    return Cell(f"{number(found.value)}, too few ({few[0]} {few[1]})", found.value)


class _Withheld(NamedTuple):
    """One aim of coverage for one arm."""

    arm: str
    row: Abstention


def abstention_table(found: Evaluation) -> Table:
    """What an arm gains if it answers only where |margin| reaches a threshold; without rows for older files."""
    rows = [_Withheld(each.arm, row) for each in found.detection for row in each.abstention]
    return tabulate(
        "If doubtful answers are withheld",
        [
            words("arm", lambda each: each.arm),
            Column("answer if |margin| is at least [logits]", lambda each: _threshold(each.row)),
            Column("answered [%]", lambda each: estimate(each.row.answered, PERCENT)),
            Column("of these flip [%]", lambda each: estimate(each.row.flip_rate, PERCENT)),
            Column("of these correct [%]", lambda each: estimate(each.row.accuracy, PERCENT)),
            Column("flips withheld [%]", lambda each: estimate(each.row.flips_withheld, PERCENT)),
            Column("errors withheld [%]", lambda each: estimate(each.row.errors_withheld, PERCENT)),
        ],
        rows,
        "One pass a question, in its original wording. The shares are for patients on whom the threshold was not set. "
        "An answer that is always the same, whatever the image, is sure too and is not withheld. Brackets: 95% "
        "intervals over patients.",
    )


def _threshold(row: Abstention) -> Cell:
    return Cell("any" if row.threshold == 0 else number(row.threshold, UNSCALED), row.threshold)

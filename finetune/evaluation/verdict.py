"""The verdict: whether an arm is better than the base, by a public rule that fewer flips alone never satisfy.

Intervals judge three axes: consistency (question-level flips), accuracy, and looking, the use of the image (text-only
agreement and swap sensitivity). Absence of evidence for a loss is not enough: an axis whose interval reaches beyond the
tolerance is unclear, and an arm with an unclear axis is not improved.
"""

from collections.abc import Iterable
from math import isfinite
from typing import Literal, NamedTuple

from finetune.evaluation.compare import ArmComparison
from finetune.evaluation.settings import TOLERANCE
from interp.statistics import MIN_PAIRED_PATIENTS, needed_units

LEVEL = 0.05
"""A difference is shown if the p value of its paired test is below this and its 95% interval excludes zero."""

MIN_FLIPS = 10
"""A verdict warns if the base flips on fewer questions than this."""

Label = Literal["improved", "improved but less grounded", "not improved", "worse", "not judged"]
ORDER: tuple[Label, ...] = ("improved", "improved but less grounded", "not improved", "worse")
"""The labels of judged arms, from best to worst."""
State = Literal["better", "kept", "lost", "unclear"]

AXES = {
    "consistency": {"question_flip_rate": -1},
    "accuracy": {"accuracy": 1},
    "looking": {"text_only_agreement": -1, "swap_sensitivity": 1},
}
"""Axis -> its measures, each 1 if more is better or -1 if less is better."""
NAMES = {
    "question_flip_rate": "flips",
    "accuracy": "accuracy",
    "text_only_agreement": "text-only agreement",
    "swap_sensitivity": "swap sensitivity",
}
"""Measure -> its name in the sentence."""


class Judgement(NamedTuple):
    """The state of one measure, as its interval and test show it."""

    axis: str
    """Name of the axis, a key of AXES."""
    comparison: ArmComparison
    """The measure over all questions."""
    state: State
    """`better` or `lost`: a change is shown. `kept`: no change is shown, and the interval excludes a loss beyond the
    tolerance. `unclear`: no change is shown, and the interval includes such a loss."""
    needed: int | None
    """Number of units that would settle an unclear state at 80% power if the estimate is right; None if the state is
    settled, or if the estimate itself lies at the bound."""


class ArmVerdict(NamedTuple):
    """The verdict on one arm."""

    label: Label
    """One of ORDER, or "not judged"."""
    sentence: str
    """The label, the numbers that support it, and a warning if there are too few data."""
    judgements: list[Judgement]
    """The measures that decided the label."""


def judge(comparison: ArmComparison, axis: str, tolerance: float) -> Judgement:
    """Judge one measure by the interval and the test of its difference; `tolerance` is a share of the questions."""
    good = AXES[axis][comparison.measure]
    change = comparison.difference
    # Signed so that more is better: `low` is the worst value that the interval includes.
    low, high = sorted((good * change.low, good * change.high))
    state: State = "unclear"
    if comparison.p < LEVEL and low > 0:
        state = "better"
    elif comparison.p < LEVEL and high < 0:
        state = "lost"
    elif axis != "consistency" and low >= -tolerance:
        state = "kept"
    bound = 0.0 if axis == "consistency" else -good * tolerance
    needed = needed_units(change, comparison.n, bound) if state == "unclear" else None
    return Judgement(axis, comparison, state, needed)


def label_of(consistency: State, accuracy: State, looking: State, beyond: bool) -> Label:
    """Apply the rule to the states of the three axes.

    `beyond` says that the whole interval of the accuracy lies below -tolerance. Worse: more flips, or accuracy lost
    beyond the tolerance, or any accuracy lost without fewer flips. Improved: fewer flips, with accuracy and looking
    kept or better. Improved but less grounded: the same with looking lost. Not improved: everything else, unclear axes
    included.
    """
    if consistency == "lost" or beyond or (accuracy == "lost" and consistency != "better"):
        return "worse"
    if consistency != "better" or accuracy in ("lost", "unclear") or looking == "unclear":
        return "not improved"
    return "improved but less grounded" if looking == "lost" else "improved"


def verdict(
    comparisons: Iterable[ArmComparison], base: str, arm: str, tolerance: float = TOLERANCE, collapsed: bool = False
) -> ArmVerdict:
    """Return the verdict on one arm against the base; `comparisons` may include those of other arms.

    An arm that `collapsed` gives the same answer to all wordings, and therefore is never improved.
    """
    overall = {c.measure: c for c in comparisons if (c.kind, c.reference, c.arm) == ("all", base, arm)}
    # With a single patient there are no swaps.
    if not set(NAMES) - {"swap_sensitivity"} <= set(overall):
        return ArmVerdict(
            "not judged", "Not judged: there are no closed questions with known answers and paraphrases.", []
        )
    found = [
        judge(overall[measure], axis, tolerance)
        for axis, measures in AXES.items()
        for measure in measures
        if measure in overall
    ]
    states = {axis: axis_state([j.state for j in found if j.axis == axis]) for axis in AXES}
    beyond = states["accuracy"] == "lost" and overall["accuracy"].difference.high < -tolerance
    label = label_of(states["consistency"], states["accuracy"], states["looking"], beyond)
    if collapsed and label in ("improved", "improved but less grounded"):
        label = "not improved"
    reasons = [_reason(judgement, tolerance) for judgement in found]
    sentence = f"{label.capitalize()}: with {arm}, {'; '.join(reasons)}."
    return ArmVerdict(label, " ".join([sentence, *_too_few(overall["question_flip_rate"])]), found)


def _too_few(flips: ArmComparison) -> list[str]:
    """Warn of too few patients or too few flips."""
    said = []
    if flips.patients < MIN_PAIRED_PATIENTS:
        said.append(
            f"With {flips.patients} patients there are no intervals; at least {MIN_PAIRED_PATIENTS} are needed."
        )
    flipped = flips.before.value * flips.n
    if flipped < MIN_FLIPS - 0.5:
        said.append(
            f"The base flips on only {flipped:.0f} of {flips.n} questions; add questions, or little can be shown."
        )
    return said


def axis_state(states: list[State]) -> State:
    """Return the state of an axis from those of its measures: lost before unclear before better before kept."""
    for state in ("lost", "unclear", "better"):
        if state in states:
            return state
    return "kept"


def _reason(judgement: Judgement, tolerance: float) -> str:
    change = judgement.comparison
    percent = [100 * number for number in change.difference]
    numbers = f"{change.before.value:.1%} to {change.after.value:.1%}"
    interval = f"[{percent[1]:+.1f}, {percent[2]:+.1f}]" if isfinite(change.difference.low) else "no interval"
    numbers += f", {percent[0]:+.1f} {interval}"
    p = "p < .001" if change.p < 0.001 else f"p = {change.p:.2g}"
    rose = change.difference.value > 0
    said = {
        "better": "rose" if rose else "fell",
        "lost": "rose" if rose else "fell",
        "kept": f"kept within {100 * tolerance:g} points",
        "unclear": "not shown to change" if judgement.axis == "consistency" else "not shown to be kept",
    }[judgement.state]
    more = f"; about {judgement.needed:,} {_units(change)} would settle it" if judgement.needed else ""
    return f"{NAMES[change.measure]} {said} ({numbers}, {p}{more})"


def _units(change: ArmComparison) -> str:
    return "wordings" if change.measure == "accuracy" else "questions"


def no_better_than(label: Label, limit: Literal["less-grounded", "not-improved", "worse"]) -> bool:
    """Whether a verdict is `limit` or worse; "not judged" counts as worse."""
    better = {"less-grounded": 1, "not-improved": 2, "worse": 3}[limit]
    return label not in ORDER[:better]

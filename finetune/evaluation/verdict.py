"""The verdict: whether an arm is better than the base, by a rule in the open that flips alone never satisfy.

Each of three axes is judged by intervals: consistency (question-level flips), accuracy, and looking (text-only
agreement and swap sensitivity). What is not shown to be kept is not kept: an interval that reaches beyond the tolerance
leaves the axis unclear, and an unclear axis is no ground to call anything improved.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

from finetune.evaluation.compare import Comparison
from finetune.lora.settings import TOLERANCE
from interp.statistics import MIN_PATIENTS, needed_units

LEVEL = 0.05
"""A difference is shown if its paired test has p below this and its 95% interval excludes zero."""

MIN_FLIPS = 10
"""Questions on which the base flips, of fewer of which a verdict warns."""

Label = Literal["improved", "improved but less grounded", "not improved", "worse", "not judged"]
ORDER: tuple[Label, ...] = ("improved", "improved but less grounded", "not improved", "worse")
"""From best to worst."""
State = Literal["better", "kept", "lost", "unclear"]

AXES = {
    "consistency": {"question_flip_rate": -1},
    "accuracy": {"accuracy": 1},
    "looking": {"text_only_agreement": -1, "swap_sensitivity": 1},
}
"""Axis -> its measures, each with the sign of what is good."""
NAMES = {
    "question_flip_rate": "flips",
    "accuracy": "accuracy",
    "text_only_agreement": "text-only agreement",
    "swap_sensitivity": "swap sensitivity",
}
"""The measures as they are called in the sentence."""


class Judgement(NamedTuple):
    """What the intervals say of one measure."""

    axis: str
    """A key of AXES."""
    comparison: Comparison
    """The measure, over all questions."""
    state: State
    """better or lost: a change is shown; kept: none is shown, and none beyond the tolerance is compatible with the
    interval; unclear: a loss beyond the tolerance is."""
    needed: int | None
    """Units with which an unclear state would be settled if the estimate is right, at 80% power; None if settled, or
    if the estimate itself is at the bound."""


class Verdict(NamedTuple):
    """The verdict on one arm."""

    label: Label
    """One of ORDER, or "not judged"."""
    sentence: str
    """The label, what it rests on, and what is too small to tell."""
    judgements: list[Judgement]
    """The measures that decided."""


def judge(comparison: Comparison, axis: str, tolerance: float) -> Judgement:
    """The state of one measure, by the interval and the test of its difference."""
    good = AXES[axis][comparison.measure]
    change = comparison.difference
    # Towards the good: low is the worst that the interval allows.
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
    """The rule. `beyond`: the interval of the accuracy lies wholly below the tolerance.

    worse: more flips, or accuracy lost beyond the tolerance, or lost at all with no fewer flips.
    improved: fewer flips, accuracy and looking kept or better. improved but less grounded: the same with looking lost.
    not improved: everything else, that which is unclear included.
    """
    if consistency == "lost" or beyond or (accuracy == "lost" and consistency != "better"):
        return "worse"
    if consistency != "better" or accuracy in ("lost", "unclear") or looking == "unclear":
        return "not improved"
    return "improved but less grounded" if looking == "lost" else "improved"


def verdict(
    comparisons: Iterable[Comparison], base: str, arm: str, tolerance: float = TOLERANCE, collapsed: bool = False
) -> Verdict:
    """The verdict on one arm against the base; `comparisons` may hold those of others too.

    An arm that `collapsed`, whose answer is the same to all wordings, has improved nothing.
    """
    overall = {c.measure: c for c in comparisons if (c.kind, c.reference, c.arm) == ("all", base, arm)}
    # There are no swaps where there is one patient only.
    if not set(NAMES) - {"swap_sensitivity"} <= set(overall):
        return Verdict("not judged", "Not judged: there are no closed questions with answers and paraphrases.", [])
    found = [
        judge(overall[measure], axis, tolerance)
        for axis, measures in AXES.items()
        for measure in measures
        if measure in overall
    ]
    states = {axis: worst([j.state for j in found if j.axis == axis]) for axis in AXES}
    beyond = states["accuracy"] == "lost" and overall["accuracy"].difference.high < -tolerance
    label = label_of(states["consistency"], states["accuracy"], states["looking"], beyond)
    if collapsed and label in ("improved", "improved but less grounded"):
        label = "not improved"
    reasons = [_reason(judgement, tolerance) for judgement in found]
    sentence = f"{label.capitalize()}: with {arm}, {'; '.join(reasons)}."
    return Verdict(label, " ".join([sentence, *_too_few(overall["question_flip_rate"])]), found)


def _too_few(flips: Comparison) -> list[str]:
    """What there is too little of for any verdict to rest on."""
    said = []
    if flips.patients < MIN_PATIENTS:
        said.append(f"With {flips.patients} patients there are no intervals: bring at least {MIN_PATIENTS}.")
    flipped = flips.before.value * flips.n
    if flipped < MIN_FLIPS - 0.5:
        said.append(f"The base flips on {flipped:.0f} of {flips.n} questions only: bring more, or little can be shown.")
    return said


def worst(states: list[State]) -> State:
    """Of the measures of one axis: a loss counts, then what is unclear; better only if none is worse than kept."""
    for state in ("lost", "unclear", "better"):
        if state in states:
            return state
    return "kept"


def _reason(judgement: Judgement, tolerance: float) -> str:
    change = judgement.comparison
    percent = [100 * number for number in change.difference]
    numbers = f"{change.before.value:.1%} to {change.after.value:.1%}"
    interval = f"[{percent[1]:+.1f}, {percent[2]:+.1f}]" if change.patients >= MIN_PATIENTS else "no interval"
    numbers += f", {percent[0]:+.1f} {interval}"
    p = "p < .001" if change.p < 0.001 else f"p = {change.p:.2g}"
    rose = change.difference.value > 0
    said = {
        "better": "rose" if rose else "fell",
        "lost": "rose" if rose else "fell",
        "kept": f"kept within {100 * tolerance:g} points",
        "unclear": "not shown to change" if judgement.axis == "consistency" else "not shown to be kept",
    }[judgement.state]
    more = f"; about {judgement.needed:,} {_units(change)} would tell" if judgement.needed else ""
    return f"{NAMES[change.measure]} {said} ({numbers}, {p}{more})"


def _units(change: Comparison) -> str:
    return "wordings" if change.measure == "accuracy" else "questions"


def as_bad(found: Verdict, limit: Literal["less-grounded", "not-improved", "worse"]) -> bool:
    """Whether a verdict is `limit` or worse; what was not judged is."""
    better = {"less-grounded": 1, "not-improved": 2, "worse": 3}[limit]
    return found.label not in ORDER[:better]

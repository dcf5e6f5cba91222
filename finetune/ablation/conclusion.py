"""The result of an ablation in sentences, by the combined score."""

import math
from collections.abc import Sequence

from finetune.ablation.metrics import COMBINED, mean_over_seeds
from finetune.ablation.plan import PlannedArm
from finetune.ablation.profile_validity import DEPTH, ProfileValidity
from finetune.ablation.regret import WindowRegret
from interp.statistics import Estimate, FloatArray

LEVEL = 0.05
"""Significance level of a rank correlation, not adjusted for the number of scores."""

COMPARISONS = {
    "window": "the mean of the {n} other windows",
    "feature-to-writer": "{span}, as many parameters",
    "writers": "the layers that write, as many parameters",
    "random": "the mean of {n} random sets of as many layers",
    "third": "the mean of the {n} thirds",
    "all": "all layers at the same rank",
    "all-matched": "all layers with as many parameters",
}
"""Kind of arm -> how a sentence names the arms of that kind; `n` is their number, `span` what SPANS says."""
SPANS = {
    True: "the layers from the gate's feature to the last that writes",
    False: "both ends of the gate, the layer of its feature and those that write",
}
"""Whether the layers of `feature-to-writer` are consecutive -> what they are (`interp.search.gate.gate_span`)."""


def conclusion(
    arms: Sequence[PlannedArm],
    good: FloatArray,
    costs: Sequence[WindowRegret],
    validity: Sequence[ProfileValidity],
    patients: int,
) -> list[str]:
    """Return one sentence for each comparison that was run, and one for the profile.

    The comparisons are with the best window, the other windows, the gate's layers, random sets, thirds and all layers.
    `arms` begins with the chosen range, and `good` [1 + DRAWS, arms, seeds] holds their combined scores. The range
    beats, ties with or loses to the others by the 95% interval of the paired difference. No range can beat the best of
    the windows that it is one of, so of these the first sentence says only whether a better one was found.
    """
    said = [_on_best(cost.regret) for cost in costs if cost.metric == COMBINED]
    of_kind: dict[str, list[int]] = {}
    for place, arm in enumerate(arms):
        for kind in (arm.kind, *arm.also):
            of_kind.setdefault(kind, []).append(place)
    for compared, what in COMPARISONS.items():
        # The chosen range may be an arm of the gate too, and is not compared with itself.
        places = [place for place in of_kind.get(compared, []) if place > 0]
        if places:
            difference = mean_over_seeds(good[:, 0] - good[:, places].mean(1), patients)
            times = sum(arms[place].parameters for place in places) / len(places) / arms[0].parameters
            name = what.format(n=len(places), span=SPANS[arms[places[0]].contiguous])
            more = f", {times:.2g} x its parameters" if compared == "all" else ""
            said.append(_sentence(name + more, difference))
    if good.shape[2] == 1:
        said.append("Every arm has one seed: the intervals are over patients alone, and another seed may differ.")
    return [*said, *_on_profile(validity)]


def _on_best(regret: Estimate) -> str:
    """Whether picking the best window on other patients would have found a better one than the chosen range."""
    value, low, high = (f"{round(100 * number, 1) + 0.0:+.1f}" for number in regret)
    measured = value if math.isnan(regret.low) else f"{value} [{low}, {high}]"
    picked = "the window that is best on other patients differs from the chosen range by"
    if math.isnan(regret.low) or regret.low <= 0 <= regret.high:
        found = "No better window is shown"
    else:
        found = "A better window is shown" if regret.low > 0 else "No better window was found by picking the best"
    return f"{found}: {picked} {measured} points of the combined score."


def _sentence(what: str, difference: Estimate) -> str:
    if math.isnan(difference.low):
        relation = "cannot be distinguished from"
    elif difference.low > 0:
        relation = "beats"
    else:
        relation = "loses to" if difference.high < 0 else "ties with"
    # Adding zero turns a rounded -0.0 into 0.0.
    value, low, high = (f"{round(100 * number, 1) + 0.0:+.1f}" for number in difference)
    interval = "" if math.isnan(difference.low) else f" [{low}, {high}]"
    return f"The chosen range {relation} {what}: {value}{interval} points of the combined score."


def _on_profile(validity: Sequence[ProfileValidity]) -> list[str]:
    found = [v for v in validity if v.metric == COMBINED and not math.isnan(v.p)]
    if not found:
        return []
    numbers = "; ".join(f"{v.score} {v.rho.value:+.2f} (p {'<.001' if v.p < 0.001 else f'= {v.p:.3f}'})" for v in found)
    shown = [v for v in found if v.score != DEPTH and v.p < LEVEL]
    better, worse = ([v.score for v in shown if sign * v.rho.value > 0] for sign in (1, -1))
    parts = [
        f"windows of higher {', '.join(scores)} did {how}"
        for scores, how in ((better, "better"), (worse, "worse"))
        if scores
    ]
    verdict = " and ".join(parts) or "no score of the profile is shown to predict how well training a window works"
    depth = max((abs(v.rho.value) for v in found if v.score == DEPTH), default=0.0)
    if shown and depth >= max(abs(v.rho.value) for v in shown):
        verdict += ", but depth alone predicts as much"
    return [f"Over {found[0].windows} windows, {verdict}; rank correlation with the combined score: {numbers}."]

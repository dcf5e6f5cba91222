"""What an ablation comes to, in sentences, on the combined score."""

import math
from collections.abc import Sequence

from finetune.ablation.metrics import COMBINED, estimate
from finetune.ablation.plan import PlannedArm
from finetune.ablation.profile_validity import DEPTH, Worth
from finetune.ablation.regret import Regret
from interp.statistics import Estimate, FloatArray

LEVEL = 0.05
"""A rank correlation is shown with p below this, before the number of scores is thought of."""


def conclusion(
    arms: Sequence[PlannedArm], good: FloatArray, costs: Sequence[Regret], told: Sequence[Worth], patients: int
) -> list[str]:
    """A sentence each on: the best window, all others, random sets, thirds, all layers, other shares of the parameters,
    and the profile.

    `arms` begin with the chosen range, `good` [1 + DRAWS, arms, seeds] are their combined scores. The range beats, ties
    with or loses to something by the 95% interval of the paired difference; what was not run is not spoken of.
    """
    said = []
    for cost in costs:
        if cost.metric == COMBINED:
            said.append(_sentence("the best window, chosen on other patients", _less(cost.regret)))
    of_kind: dict[str, list[int]] = {}
    for place, arm in enumerate(arms):
        of_kind.setdefault(arm.kind, []).append(place)
    for kind, what in {
        "window": "the mean of the {n} other windows",
        "random": "the mean of {n} random sets of as many layers",
        "third": "the mean of the {n} thirds",
        "all": "all layers at the same rank",
        "all-matched": "all layers with as many parameters",
    }.items():
        places = of_kind.get(kind, [])
        if places:
            apart = estimate(good[:, 0] - good[:, places].mean(1), patients)
            times = sum(arms[place].parameters for place in places) / len(places) / arms[0].parameters
            more = f", {times:.2g} x its parameters" if kind == "all" else ""
            said.append(_sentence(what.format(n=len(places)) + more, apart))
    if good.shape[2] == 1:
        said.append("Every arm has one seed: intervals are over patients alone, and another seed may say otherwise.")
    return [*said, *_on_profile(told)]


def _less(estimate: Estimate) -> Estimate:
    return Estimate(-estimate.value, -estimate.high, -estimate.low)


def _sentence(what: str, apart: Estimate) -> str:
    if math.isnan(apart.low):
        relation = "can not be told from"
    elif apart.low > 0:
        relation = "beats"
    else:
        relation = "loses to" if apart.high < 0 else "ties with"
    # The sum takes the sign off a rounded zero.
    value, low, high = (f"{round(100 * number, 1) + 0.0:+.1f}" for number in apart)
    interval = "" if math.isnan(apart.low) else f" [{low}, {high}]"
    return f"The chosen range {relation} {what}: {value}{interval} points of the combined score."


def _on_profile(told: Sequence[Worth]) -> list[str]:
    found = [w for w in told if w.metric == COMBINED and not math.isnan(w.p)]
    if not found:
        return []
    numbers = "; ".join(f"{w.score} {w.rho.value:+.2f} (p {'<.001' if w.p < 0.001 else f'= {w.p:.3f}'})" for w in found)
    shown = [w for w in found if w.score != DEPTH and w.p < LEVEL]
    better, worse = ([w.score for w in shown if sign * w.rho.value > 0] for sign in (1, -1))
    parts = [
        f"windows of higher {', '.join(scores)} did {how}"
        for scores, how in ((better, "better"), (worse, "worse"))
        if scores
    ]
    verdict = " and ".join(parts) or "no score of the profile is shown to tell how good a window is to train"
    depth = max((abs(w.rho.value) for w in found if w.score == DEPTH), default=0.0)
    if shown and depth >= max(abs(w.rho.value) for w in shown):
        verdict += ", but mere depth tells as much"
    return [f"Over {found[0].windows} windows, {verdict}; rank correlation with the combined score: {numbers}."]

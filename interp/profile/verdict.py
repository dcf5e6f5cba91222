"""The verdict: do the flips arise in a few layers, and is there a gate?"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from interp.profile.range_test import RangeTest
from interp.profile.ranges import LayerRange
from interp.schemas.layer_list import layers_text
from interp.schemas.layers import FormalityEntry, GateVerdict, ProfileEntry
from interp.screening.flips import Flips

LEAST_PATIENTS = 5
"""Fewest patients with banked flips from which anything is concluded."""
LEAST_ARRIVED = 0.5
"""Least recovery by the residual patch below a gate, with its whole interval: what it turns must be there before."""
SIGNIFICANT = 0.05
"""Adjusted p below which the growth of a layer counts."""
LEAST_LIFT = 2.0
"""A gate makes at least this many times as much of the flipped answers as of those that differ by the image."""


class Verdict(NamedTuple):
    """What is concluded from a profile, and which layers it names."""

    verdict: GateVerdict
    """The conclusion."""
    reason: str
    """Its grounds in one sentence."""
    layers: list[int]
    """Layers worth training, ascending; empty if none can be told."""


def judge(
    profile: Sequence[ProfileEntry],
    bank: Flips,
    taken: LayerRange,
    test: RangeTest,
    formality: FormalityEntry | None,
    min_flips: int,
) -> Verdict:
    """The verdict on the range `taken`, from its test on `bank`, the held-out flip bank.

    - *too few flips*: fewer than `min_flips` banked flips, or of fewer than LEAST_PATIENTS patients;
    - *no gate found*: no profiled layer turns wordings into answers more than random directions do, or the first one
      that is profiled already holds the answer; or a single one is profiled, whose answer may have been made in any
      layer up to it;
    - *spread over layers*: some do, but the range does not hold enough. With w of the L profiled layers, it holds w / L
      of the answer if it is made evenly. The interval of its share must be above the middle between that and 1;
    - *as answers form*: the range holds enough, but not LEAST_LIFT times as much as it holds of the answers that differ
      because of the image, and the register does not cause the flips. The wording then disturbs the reading of the
      image;
    - *arrives from the question*: the range holds enough, but the final token does not hold the difference of wording
      before it. So the range only shows where the difference arrives; a question token may have turned it into an
      answer in these layers or below;
    - *gate found*: the range holds enough, LEAST_LIFT times as much as of the answers that differ because of the image,
      and the final token holds the difference of wording before it; or the register alone causes the flips.
    """
    flips, patients = len(bank.pairs), bank.pairs["patient"].nunique()
    if flips < min_flips or patients < LEAST_PATIENTS:
        return Verdict("too few flips", _too_few(flips, patients, min_flips), [])
    if len(profile) == 1 and profile[0].layer > 0:
        reason = f"only layer {profile[0].layer} is profiled, and its answer may have been made in any layer up to it"
        return Verdict("no gate found", reason, [])
    growing = [p.layer for p in profile if p.answer_growth and (p.answer_growth.value or 0.0) > 0 and _sure(p.growth_p)]
    if not growing:
        reason = "in no profiled layer does the answer patch recover more than in the layer below it, beyond chance"
        return Verdict("no gate found", _made_below(profile[0]) or reason, [])
    needed = (1 + sum(p.layer in taken.layers for p in profile) / len(profile)) / 2
    share = test.share
    named = [layer for layer in _covered(profile, taken.layers) if layer <= taken.last]
    makers = f"layers {named[0]}-{named[-1]} make" if len(named) > 1 else f"layer {named[0]} makes"
    held = f"{makers} {_text(share.value)} of the flipped answers"
    if needed == 1:
        reason = f"the range holds every profiled layer ({len(profile)}), so nothing tells it from others; profile more"
        return Verdict("spread over layers", reason, _covered(profile, growing))
    if (share.low or 0.0) <= needed:
        return Verdict(
            "spread over layers",
            f"{held} (interval from {_text(share.low)}), and a gate of this width would make more than {needed:.2f}; "
            f"the answer changes in layers {layers_text(growing)}",
            _covered(profile, growing),
        )
    if formality and formality.holds:
        cause = f"and the register alone, at layer {formality.layer}, recovers {_text(formality.recovery.value)}"
        return Verdict("gate found", f"{held}, {cause}", named)
    if test.formed.high is None:
        unknown = "whether they make every answer is unknown, since too few answers differ because the image does"
        return Verdict("as answers form", f"{held}, but {unknown}", named)
    if LEAST_LIFT * test.formed.high >= (share.low or 0.0):
        return Verdict(
            "as answers form",
            f"{held}, but they also make {_text(test.formed.value)} of the answers that differ because the image does, "
            "so the wording disturbs the reading of the image instead of passing a gate",
            named,
        )
    if test.arrived.low is None:
        unknown = "whether the final token holds the difference before is unknown, as no layer below is profiled"
        return Verdict("arrives from the question", f"{held}; {unknown}", named)
    if test.arrived.low <= LEAST_ARRIVED:
        return Verdict(
            "arrives from the question",
            f"{held}, but exchanging the final token below them recovers {_text(test.arrived.value)}: most of the "
            "difference arrives there from the tokens of the question, which may have made the answer",
            named,
        )
    reason = (
        f"{held} and {_text(test.formed.value)} of the answers that differ because the image does, and the difference "
        f"of wording is at the final token before ({_text(test.arrived.value)})"
    )
    return Verdict("gate found", reason, named)


def _made_below(first: ProfileEntry) -> str | None:
    """That the first profiled layer already holds the answer, if it does beyond chance and is not layer 0."""
    answer, random = first.answer, first.random_answer
    if first.layer == 0 or answer is None or random is None or (answer.low or 0.0) <= max(random.high or 0.0, 0.0):
        return None
    return (
        f"the answer patch already recovers {_text(answer.value)} at layer {first.layer}, the first that is profiled, "
        f"and no more above it, so the answer was made in layers 0-{first.layer}: profile these, too"
    )


def _sure(p: float | None) -> bool:
    return p is not None and p < SIGNIFICANT


def _covered(profile: Sequence[ProfileEntry], layers: Sequence[int]) -> list[int]:
    """The layers with those below each that are not profiled: what grows up to a layer may have been made in them."""
    places = [p.layer for p in profile]
    found = set(layers)
    for below, layer in pairwise(places):
        if layer in found:
            found |= set(range(below + 1, layer + 1))
    return sorted(found)


def _too_few(flips: int, patients: int, min_flips: int) -> str:
    return (
        f"only {_counted(flips, 'flip')} of {_counted(patients, 'patient')} {'is' if flips == 1 else 'are'} large "
        "enough to study on the held-out half; "
        f"at least {min_flips} flips of {LEAST_PATIENTS} patients are needed"
    )


def _text(share: float | None) -> str:
    return "an undefined share" if share is None else f"{share:.2f}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"

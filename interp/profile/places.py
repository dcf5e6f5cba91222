"""The place of a feature: does it cause the flips, mediate them, echo the answer, or merely stand by?

A cause is read by the layers that write the other answer, so undoing its change works *through* them: its recovery is
mediated, and it lies below them. A mediator lies among them. A contributor works through them too, but alone it
recovers no more than single features do in models without a gate: it is one of many, or of a family. What comes after
the layers that write, or works without any layer in between, only carries the answer that has been made: an echo pushes
the margin with or without a gate. A family of features that are patched as one has a place by the same rule.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from interp.causal.mediation import LayerFall
from interp.schemas.record import Interval
from interp.schemas.tested_features import MEDIATED, Place

WRITES = 0.25
"""Least direct effect of a writing layer, as a share of the largest."""
LEAST_FALL = 0.05
"""Least fall of a layer that reads a feature's change, as a share of the margin shift."""
SIGNIFICANT = 0.05
"""Adjusted p below which an effect counts."""
ORDER: tuple[Place, ...] = ("cause", "mediator", "contributor", "echo", "bystander")
"""The order in which features are listed."""


class Patched(Protocol):
    """What a place follows from: the patch of a feature (`CausalEntry`) or of a family (`VectorPatchEntry`)."""

    @property
    def net(self) -> Interval:
        """Recovery minus that of random directions."""

    @property
    def p(self) -> float | None:
        """Its p."""

    @property
    def direct(self) -> Interval | None:
        """The part that the output layer reads; None in old artifacts."""

    @property
    def net_mediated(self) -> Interval | None:
        """The part that later layers make, minus that of random directions; None in old artifacts."""

    @property
    def p_mediated(self) -> float | None:
        """Its p."""


def writing_layers(writes: Mapping[int, Interval]) -> list[int]:
    """The layers whose own addition moves the answer: a direct effect above chance and not far below the largest.

    `writes` is layer -> its direct-effect patch net of random directions.
    """
    largest = max((write.value or 0.0 for write in writes.values()), default=0.0)
    return [
        layer
        for layer, write in writes.items()
        if write.value is not None and (write.low or 0) > 0 and write.value >= WRITES * largest
    ]


def layers_that_mediate(falls: Sequence[LayerFall]) -> list[int]:
    """The layers that read a feature's change: a fall above chance, no trifle, and not far below the largest."""
    largest = max((fall.net_fall.value for fall in falls), default=0.0)
    least = max(LEAST_FALL, WRITES * largest)
    return [fall.layer for fall in falls if fall.p < SIGNIFICANT and fall.net_fall.value >= least]


def place_of(layer: int, patched: Patched, writing: Sequence[int], least: float = MEDIATED) -> Place:
    """The place of what was patched at `layer`, when the layers `writing` write the answer.

    `least` is the net mediated recovery that a cause needs: FAMILY_MEDIATED for a family.
    """
    net, mediated = patched.net, patched.net_mediated
    moves = (net.low or 0) > 0 and (patched.p or 0) < SIGNIFICANT
    mediates = mediated is not None and (mediated.low or 0) > 0 and (patched.p_mediated or 0) < SIGNIFICANT
    if mediates and mediated is not None and writing and layer < writing[-1]:
        if (mediated.value or 0) >= least:
            return "cause" if layer < writing[0] else "mediator"
        if moves and patched.direct is not None and (mediated.value or 0) > (patched.direct.value or 0):
            return "contributor"
    return "echo" if moves else "bystander"

"""The place of a feature: does it cause the flips, mediate them, echo the answer, or merely stand by?

A cause is read by the layers that write the other answer, so undoing its change works *through* them: its recovery is
mediated, and it lies below them. A mediator lies among them. A contributor works through them too, but alone it
recovers no more than single features do in models without a gate: it is one of many, or of a family. What comes after
the layers that write, or works without any layer in between, only carries the answer that has been made: an echo pushes
the margin with or without a gate.
"""

from collections.abc import Sequence

from interp.schemas.layers import MEDIATED, CausalEntry, Place, ProfileEntry

WRITES = 0.25
"""Least direct effect of a writing layer, as a share of the largest."""
SIGNIFICANT = 0.05
"""Adjusted p below which an effect counts."""
ORDER: tuple[Place, ...] = ("cause", "mediator", "contributor", "echo", "bystander")
"""The order in which features are listed."""


def writing_layers(profile: Sequence[ProfileEntry]) -> list[int]:
    """The layers whose own addition moves the answer: a direct effect above chance and not far below the largest."""
    writes = {entry.layer: entry.net_write for entry in profile}
    largest = max((write.value or 0.0 for write in writes.values()), default=0.0)
    return [
        layer
        for layer, write in writes.items()
        if write.value is not None and (write.low or 0) > 0 and write.value >= WRITES * largest
    ]


def place_of(layer: int, causal: CausalEntry, writing: Sequence[int]) -> Place:
    """The place of a feature of `layer` that was tested, when the layers `writing` write the answer."""
    net, mediated = causal.net, causal.net_mediated
    moves = (net.low or 0) > 0 and (causal.p or 0) < SIGNIFICANT
    mediates = mediated is not None and (mediated.low or 0) > 0 and (causal.p_mediated or 0) < SIGNIFICANT
    if mediates and mediated is not None and writing and layer < writing[-1]:
        if (mediated.value or 0) >= MEDIATED:
            return "cause" if layer < writing[0] else "mediator"
        if moves and causal.direct is not None and (mediated.value or 0) > (causal.direct.value or 0):
            return "contributor"
    return "echo" if moves else "bystander"

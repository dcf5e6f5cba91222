"""The gate that a search names: the feature or family that it reads, the layers that read it, and those that write."""

from collections.abc import Sequence

from torch import Tensor

from interp.causal.layer_patching import PatchTarget
from interp.causal.mediation import falls_by_layer
from interp.profile.places import layers_that_mediate
from interp.schemas.layers import GateEntry, GateVerdict
from interp.schemas.tested_features import FamilyEntry
from interp.screening.layers import ScreenedLayers
from interp.search.settings import FindSettings
from interp.search.stages import TestedFeatures


def name_gate(
    verdict: GateVerdict,
    tested: TestedFeatures,
    families: Sequence[FamilyEntry],
    screened: ScreenedLayers,
    bank: PatchTarget,
    writing: Sequence[int],
    settings: FindSettings,
) -> GateEntry | None:
    """The first single cause, or the first family that is a cause where no single feature is one.

    `writing` are the layers that write the answer, ascending. None without a cause, or if the profile shows no gate.
    """
    if verdict != "gate found":
        return None
    if tested.entries and tested.entries[0].place == "cause":
        layer, features, vector = tested.entries[0].layer, [tested.entries[0].feature], tested.first_patch
    elif families and families[0].place == "cause":
        layer, features = families[0].layer, families[0].features
        vector = _family_patch(screened, layer)
    else:
        return None
    return GateEntry(
        feature=features[0],
        family=features[1:],
        read_layer=layer,
        mediating_layers=layers_that_mediate(falls_by_layer(bank, layer, vector, settings.seed)),
        write_layers=list(writing),
        span=gate_span(layer, writing, settings.max_layers),
    )


def gate_span(read_layer: int, writing: Sequence[int], max_layers: int) -> list[int]:
    """The layers from `read_layer` to the last of `writing`, or its two ends alone if that is more than `max_layers`.

    The two ends are `read_layer` and all of `writing`, which can themselves be more than `max_layers`.
    """
    whole = list(range(read_layer, max(writing) + 1))
    return whole if len(whole) <= max_layers else sorted({read_layer, *writing})


def _family_patch(screened: ScreenedLayers, layer: int) -> Tensor:
    """What undoes the change of a layer's family: float32 [bank, d_model]."""
    position = [family.layer for family in screened.families].index(layer)
    return screened.family_patch[:, position]

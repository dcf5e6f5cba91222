"""The gate of a search: what it reads, a feature or a family of them, which layers read it, and which write."""

from interp.schemas.layer_list import layers_text
from interp.schemas.layers import GateEntry, Layers
from interp.schemas.record import Interval
from interp.schemas.tested_features import FamilyEntry, FeatureEntry, Place
from interp.views.numbers import NONE, interval
from interp.views.table import Cell, Column, Table, blank, count, estimate, p_cell, tabulate, value, words


def gate_line(found: Layers) -> str:
    """What the gate reads, with the layers that read and write, or why nothing is named."""
    gate = found.gate
    if gate is None:
        return f"gate feature: none found, as {_reason(found)}{_named(found, 'cause')}{_named(found, 'contributor')}"
    read = f"{gate.read_layer}:{gate.feature}"
    if gate.family:
        name = f"gate family: {read} with its relatives {', '.join(map(str, gate.family))}"
        alone = "; no single feature is a cause"
    else:
        name, alone = f"gate feature: {read}", ""
    reads = f"; {_layers(gate.mediating_layers)} read{_s(gate.mediating_layers)} it" if gate.mediating_layers else ""
    return f"{name}{_mediated(found, gate)}{alone}{reads}; the answer is written in {_layers(gate.write_layers)}"


def gate_name(gate: GateEntry) -> str:
    """The feature that the gate reads, or the size of the family and the feature that stands for it."""
    read = f"{gate.read_layer}:{gate.feature}"
    return f"the family of {read} ({len(gate.family) + 1} features)" if gate.family else f"feature {read}"


def _reason(found: Layers) -> str:
    if found.verdict == "too few flips":
        return "too few flips tell nothing"
    if found.verdict != "gate found":
        return "no gate was found"
    families = " and no family" if found.families else ""
    return f"no single feature{families} that was tested is a cause"


def _named(found: Layers, place: Place) -> str:
    names = [f"{entry.layer}:{entry.feature}" for entry in found.features if entry.place == place]
    families = [family_name(entry) for entry in found.families if entry.place == place]
    singles = f"; {place}s: {', '.join(names)}" if names else ""
    return f"{singles}; families that are {place}s: {', '.join(families)}" if families else singles


def _mediated(found: Layers, gate: GateEntry) -> str:
    """The mediated recovery of what the gate reads, where it is known."""
    measured: list[Interval] = []
    for feature in found.features:
        if not gate.family and (feature.layer, feature.feature) == (gate.read_layer, gate.feature) and feature.causal:
            measured += [feature.causal.mediated] if feature.causal.mediated else []
    if (family := gate_family(found)) is not None:
        measured.append(family.net_mediated)
    kind = "net mediated" if gate.family else "mediated"
    return f", {kind} recovery {interval(measured[0])}" if measured else ""


def _layers(layers: list[int]) -> str:
    return f"layer{'s' if len(layers) > 1 else ''} {layers_text(layers)}"


def _s(layers: list[int]) -> str:
    """The ending of a verb whose subject are these layers."""
    return "" if len(layers) > 1 else "s"


def family_name(entry: FamilyEntry) -> str:
    """LAYER:FEATURE of the feature whose family it is, and the number of its relatives."""
    return f"{entry.layer}:{entry.features[0]} + {len(entry.features) - 1}"


def gate_family(found: Layers) -> FamilyEntry | None:
    """The family that the gate reads, as it was patched; None where the gate is a single feature, or there is none."""
    gate = found.gate
    if gate is None or not gate.family:
        return None
    read = (gate.read_layer, [gate.feature, *gate.family])
    return next((family for family in found.families if (family.layer, family.features) == read), None)


def families_table(found: Layers) -> Table:
    """The families that were patched as one, causes first, each beside its first feature alone."""
    alone: dict[tuple[int, int], FeatureEntry] = {(entry.layer, entry.feature): entry for entry in found.features}

    def by_itself(family: FamilyEntry) -> Cell:
        single = alone.get((family.layer, family.features[0]))
        return blank() if single is None or single.causal is None else estimate(single.causal.net_mediated)

    return tabulate(
        "Families of features that were patched as one",
        [
            Column(
                "family",
                lambda entry: Cell(family_name(entry), entry.layer + entry.features[0] / 1e9),
                meaning="layer and index of a feature, and the number of its relatives in the SAE: features of like "
                "direction, or whose changes go with its own; they are found without the margins",
            ),
            Column(
                "relatives",
                lambda entry: Cell(", ".join(map(str, entry.features[1:])) or NONE),
                numeric=False,
                narrow=False,
            ),
            words("place", lambda entry: entry.place),
            Column(
                "predicted",
                lambda entry: value(entry.path_attribution, sign=True),
                narrow=False,
                meaning="sum of the path attributions on the other half of the patients, by which one family of every "
                "layer below the last that writes was chosen",
            ),
            Column("recovery", lambda entry: estimate(entry.recovery)),
            Column(
                "net mediated",
                lambda entry: estimate(entry.net_mediated),
                meaning="the part that later layers make, minus that of random directions",
            ),
            Column("p", lambda entry: p_cell(entry.p_mediated), meaning="of net mediated, adjusted over the families"),
            Column("first feature alone", by_itself, meaning="net mediated recovery of the first feature, if tested"),
            Column("flips restored", lambda entry: count(entry.reversals)),
        ],
        found.families,
        "Patched on flips of the held-out half. Brackets: 95% intervals over patients.",
    )

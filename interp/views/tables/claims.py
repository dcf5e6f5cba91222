"""The claims that the verdict of a search rests on, each beside what it has to beat."""

from typing import NamedTuple

from interp.schemas.layer_list import layers_text
from interp.schemas.layers import Layers, ProfileEntry, RangeEntry
from interp.schemas.record import Interval
from interp.schemas.tested_features import FamilyEntry
from interp.views.numbers import interval
from interp.views.table import Cell, Column, Table, blank, estimate, tabulate, value, words
from interp.views.tables.gate import family_name, gate_family
from interp.views.tables.ranges import chosen_range, is_tested

RANDOM = "random directions of the same norm"


class _Claim(NamedTuple):
    """A claim with the control that it has to beat."""

    claim: str
    where: str
    measured: Interval
    control: Cell
    meaning: str


def claims_table(found: Layers) -> Table:
    """Each claim of the verdict beside its control."""
    taken = chosen_range(found)
    claims = _of_range(found, taken) if taken is not None and is_tested(found) else _of_layers(found)
    claims += [
        _Claim(
            "undoing the change of one feature changes the answer (feature patch)",
            f"feature {entry.feature} of layer {entry.layer}, the first of {len(found.features)}",
            entry.causal.recovery,
            value(entry.causal.random),
            RANDOM,
        )
        for entry in found.features[:1]
        if entry.causal is not None
    ]
    if (family := gate_family(found)) is not None:
        claims.append(_of_family(family))
    return tabulate(
        "What it was measured against",
        [
            words("claim, on held-out patients", lambda claim: claim.claim, lambda claim: claim.where),
            Column("measured", lambda claim: estimate(claim.measured)),
            Column("control", lambda claim: claim.control),
            words("what the control is", lambda claim: claim.meaning),
        ],
        claims,
        "Patches are measured by their recovery, the share of the margin shift between two wordings that they undo. "
        "Brackets: 95% intervals over patients.",
    )


def _of_range(found: Layers, taken: RangeEntry) -> list[_Claim]:
    """The claims on the range of the chosen rule, and on the register."""
    where = f"layer{'s' if taken.first < taken.last else ''} {layers_text(range(taken.first, taken.last + 1))}"
    below = [entry for entry in found.profile if entry.layer < taken.first]
    tested: list[tuple[str, Interval | None, Cell, str]] = [
        (
            "the flipped answers are made here (answer patch)",
            taken.share,
            estimate(taken.formed),
            "the same share of answers that differ because the image does; at a gate it is at most half as large",
        ),
        (
            "the difference of wording is at the final token before (residual patch below)",
            taken.arrived,
            estimate(below[-1].random_patch) if below else blank(),
            RANDOM,
        ),
        (
            "what is added here is enough for the flip (window patch)",
            taken.restored,
            estimate(taken.random_restored),
            RANDOM,
        ),
        (
            "it is needed for the flip (reversed window patch)",
            taken.broken,
            estimate(taken.random_broken),
            RANDOM,
        ),
    ]
    claims = [
        _Claim(claim, where, measured, control, meaning)
        for claim, measured, control, meaning in tested
        if measured is not None
    ]
    if (formality := found.formality) is not None:
        where = f"layer {formality.layer}"
        claim = "the register alone makes the flip (register patch)"
        claims.append(_Claim(claim, where, formality.recovery, estimate(formality.random), RANDOM))
    return claims


def _of_family(family: FamilyEntry) -> _Claim:
    """The claim on the family that the gate reads; what decides is the part that later layers make of its change."""
    whole, net = family.recovery.value, family.net.value
    random = whole - net if whole is not None and net is not None else None
    return _Claim(
        "undoing the changes of a family of features changes the answer (joint patch)",
        f"family {family_name(family)}, net mediated {interval(family.net_mediated)}",
        family.recovery,
        value(random),
        RANDOM,
    )


def _of_layers(found: Layers) -> list[_Claim]:
    """The claims of a search before schema version 3: on flip AUC, and on what single layers add."""
    claims = []
    if (best := _best(found, "flip_auc")) is not None:
        claims.append(
            _Claim(
                "the layer's features discriminate flips (AUC)",
                f"layer {best.layer}, the best",
                best.flip_auc,
                value(best.flip_auc_null),
                "shuffled flips, best of all layers, 95th percentile",
            )
        )
    of_layer = {entry.layer: entry for entry in found.profile}
    judged = [of_layer[layer] for layer in found.layers if layer in of_layer]
    strongest = _best(found, "net_write")
    return claims + [
        _Claim(
            "what the layer itself adds changes the answer (direct-effect patch)",
            f"layer {entry.layer}",
            entry.write,
            estimate(entry.random_write),
            RANDOM,
        )
        for entry in judged or ([strongest] if strongest else [])
    ]


def _best(found: Layers, score: str) -> ProfileEntry | None:
    known = [entry for entry in found.profile if getattr(entry, score).value is not None]
    return max(known, key=lambda entry: getattr(entry, score).value, default=None)

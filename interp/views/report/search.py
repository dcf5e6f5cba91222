"""What a search found, laid out: the verdict's grounds, the layer profile, the features that were patched."""

from typing import NamedTuple

import pandas as pd

from interp.schemas.layers import FeatureEntry, Interval, Layers, ProfileEntry
from interp.views.numbers import NONE, PERCENT, interval, layers, number
from interp.views.report import tables
from interp.views.report.tables import Table, columns

CARDS = 6
"""Features that get a card, the first ones; the table has all that were tested."""
CAUTION = (
    "To move with the flips is not to cause them: what counts is the share of the margin shift that comes back when a "
    "feature's change is undone, on other patients and beside its controls."
)
SHOWN_P = 0.05
"""Adjusted p below which a feature of the screen is counted."""


class Card(NamedTuple):
    """One feature that was patched."""

    entry: FeatureEntry
    """What was measured."""
    name: str
    """LAYER:FEATURE."""
    chart: str
    """Name of its chart."""
    says: str
    """What the numbers come to, in words."""
    facts: list[tuple[str, str]]
    """Name and value of each number."""


def headline(found: Layers) -> str:
    """The verdict in a few words."""
    if not found.layers:
        return "No gate found"
    return f"Gate found in layer{'s' if len(found.layers) > 1 else ''} {layers(found.layers)}"


def facts(found: Layers) -> list[tuple[str, str]]:
    """What was studied and how often it flips."""
    data, model = found.data, found.model
    known = [
        ("Model", f"{model.id}, {model.n_layers} layers of width {model.d_model:,}"),
        ("Data", f"{data.questions:,} yes/no questions of {data.patients:,} patients, {data.split} split"),
        ("Questions with a flip", f"{interval(data.question_flip_rate, PERCENT, unit='%')}"),
        ("Pairs that flip", f"{data.flips:,} of {data.pairs:,}, {data.flip_bank:,} of them clearly"),
        ("Accuracy", f"{interval(data.accuracy, PERCENT, unit='%')}"),
    ]
    if found.layers:
        known.insert(0, ("Range", f"layers {layers(found.layers)}, by rule {found.rule}, peak {found.peak}"))
    if found.commit_layer is not None:
        known.append(("Half of the flips turned back", f"by layer patches from layer {found.commit_layer} on"))
    return known


def beaten(found: Layers) -> Table:
    """Each claim beside the control that it has to beat."""
    rows = []
    if (best := _best(found, "flip_auc")) is not None:
        null = tables.value(best.flip_auc_null)
        rows.append(
            [
                tables.text("held-out features tell flips from other pairs (AUC)", f"layer {best.layer}, the best"),
                tables.estimate(best.flip_auc),
                null,
                tables.text("flips shuffled, best of all layers, 95th percentile"),
            ]
        )
    of_layer = {entry.layer: entry for entry in found.profile}
    judged = [of_layer[layer] for layer in found.layers if layer in of_layer]
    strongest = _best(found, "net_write")
    for entry in judged or ([strongest] if strongest else []):
        rows.append(
            [
                tables.text("what the layer itself adds moves the answer (write patch)", f"layer {entry.layer}"),
                tables.estimate(entry.write),
                tables.estimate(entry.random_write),
                tables.text("random directions of the same norm"),
            ]
        )
    for feature in found.features[:1]:
        if feature.causal is not None:
            rows.append(
                [
                    tables.text(
                        "undoing one feature's change moves the answer (delta patch)",
                        f"feature {feature.feature} of layer {feature.layer}, the best of {len(found.features)}",
                    ),
                    tables.estimate(feature.causal.recovery),
                    tables.value(feature.causal.random),
                    tables.text("random directions of the same norm"),
                ]
            )
    return Table(
        "What it was measured against",
        [
            *columns(["claim, on held-out patients"], ["measured", "control"]),
            *columns(["what the control is"]),
        ],
        rows,
        "Patches: share of the margin shift between two wordings that comes back. Brackets: 95% intervals over "
        "patients.",
    )


def profile_table(found: Layers) -> Table:
    """The layer profile, one row a layer."""
    rows = [
        [
            tables.count(entry.layer),
            tables.estimate(entry.flip_auc),
            tables.estimate(entry.recovery),
            tables.value(entry.random_patch.value),
            tables.estimate(entry.write),
            tables.value(entry.random_write.value),
            tables.estimate(entry.net_feature_patch, sign=True),
            tables.count(entry.reversals),
            tables.estimate(entry.r2),
            tables.text(entry.transfer or NONE),
            tables.value(entry.l0),
        ]
        for entry in found.profile
    ]
    heads = ["layer", "flip AUC", "layer patch", "random", "write patch", "random", "joint patch, net", "turned back"]
    return Table(
        "Layer profile on held-out patients",
        [*columns([], [*heads, "SAE R²"]), *columns(["SAE fits"]), *columns([], ["active features"])],
        rows,
        "Layer patch: the whole residual of the original wording put into the paraphrase. Write patch: what this layer "
        "adds, exchanged alone and read at the end. Joint patch: the ten features of highest attribution. Turned back: "
        "flips whose answer the layer patch restores.",
        marked=frozenset(i for i, entry in enumerate(found.profile) if entry.layer in found.layers),
        marker="in the range",
    )


def ranges_table(found: Layers) -> Table:
    """What each rule gives."""
    rows = [
        [
            tables.text(each.rule),
            tables.Cell(layers(range(each.first, each.last + 1)), each.first),
            tables.count(each.peak),
        ]
        for each in found.ranges
    ]
    return Table(
        "The range by other rules",
        [*columns(["rule"]), *columns([], ["layers", "peak"])],
        rows,
        "A range that the rules do not share depends on the rule.",
    )


def features_table(found: Layers) -> Table:
    """All features that were tested, highest net recovery first."""
    rows = []
    for entry in found.features:
        causal = entry.causal
        rows.append(
            [
                tables.Cell(f"{entry.layer}:{entry.feature}", entry.layer + entry.feature / 1e9),
                tables.value(entry.held_out_auc),
                tables.value(entry.margin_r, sign=True),
                tables.value(entry.register_auc),
                tables.value(entry.attribution, sign=True),
                tables.estimate(causal.recovery if causal else None),
                tables.value(causal.random if causal else None),
                tables.value(causal.matched if causal else None),
                tables.value(causal.swapped if causal else None),
                tables.p(causal.p if causal else None),
                tables.Cell(f"{causal.reversals} of {causal.n}", causal.reversals) if causal else tables.text(NONE),
                tables.value(causal.unflipped_changed if causal else None, PERCENT),
            ]
        )
    heads = ["layer:feature", "flip AUC, held out", "r with margin", "register AUC", "predicted", "recovery", "random"]
    more = ["like", "swapped", "p", "turned back", "unflipped changed [%]"]
    return Table(
        f"All {len(rows)} features that were patched, highest net recovery first",
        columns([], [*heads, *more]),
        rows,
        "Chosen on half of the patients, patched on flips of the others. Recovery: share of the margin shift that "
        "comes back when the feature's change is undone. Controls: random directions of the same norm; features that "
        "move as much but do not tell flips (like); the feature's change on another pair (swapped). p: of recovery "
        "less random, adjusted over the features. Predicted: by gradient, on the other half. Register AUC: above .50 "
        "more active on formal wordings, below on casual ones.",
    )


def screen_says(screened: pd.DataFrame) -> str:
    """How many features there were to choose from."""
    told = int((screened["flip_p"] < SHOWN_P).sum())
    return (
        f"{len(screened):,} features ever fire on these questions; the size of their change tells flips from other "
        f"pairs in {told:,} (adjusted p < .05, choosing half)."
    )


def cards(found: Layers) -> list[Card]:
    """The first features that were patched."""
    return [
        Card(
            entry,
            f"{entry.layer}:{entry.feature}",
            f"dose-{entry.layer}-{entry.feature}",
            _says(entry),
            _card_facts(entry),
        )
        for entry in [entry for entry in found.features if entry.causal][:CARDS]
    ]


def _card_facts(entry: FeatureEntry) -> list[tuple[str, str]]:
    known = [
        (
            "Change where the answer flips, else",
            f"{number(entry.delta_on_flips)}, {number(entry.delta_otherwise)} (mean of |Δ|)",
        ),
        ("Correlation with the margin shift", number(entry.margin_r, sign=True)),
        ("Flip AUC, held out", number(entry.held_out_auc)),
        ("Register AUC", f"{number(entry.register_auc)}{_register(entry.register_auc)}"),
        ("Active on", f"{number(entry.density, PERCENT)}% of the wordings, mean {number(entry.mean_activation)}"),
    ]
    if causal := entry.causal:
        controls = ", ".join(number(each) for each in (causal.random, causal.matched, causal.swapped))
        known += [
            ("Recovery", interval(causal.recovery)),
            ("Random, like, swapped", controls),
            ("Answers turned back", f"{causal.reversals} of {causal.n} (random {number(causal.random_reversals)})"),
            ("Unflipped answers changed", f"{number(causal.unflipped_changed, PERCENT)}%"),
        ]
    return known


def _register(auc: float | None) -> str:
    if auc is None or abs(auc - 0.5) < 0.1:
        return ""
    return ", more active on formal wordings" if auc > 0.5 else ", more active on casual wordings"


def _says(entry: FeatureEntry) -> str:
    net = entry.causal.net if entry.causal else Interval(value=None, low=None, high=None)
    if net.value is None or net.low is None or net.high is None:
        return "Its patch could not be told from its control."
    if net.low > 0:
        return f"Undoing its change brings back {number(net.value, PERCENT)}% of the margin shift more than chance."
    if net.high < 0:
        return "Undoing its change pushes the answer the wrong way: it moves with the flips and does not cause them."
    return "Undoing its change does no more than a random direction."


def _best(found: Layers, score: str) -> ProfileEntry | None:
    known = [entry for entry in found.profile if getattr(entry, score).value is not None]
    return max(known, key=lambda entry: getattr(entry, score).value, default=None)

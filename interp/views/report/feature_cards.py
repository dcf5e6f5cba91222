"""The search on the page: the headline, and a card for each of the first features; its tables are in `views.tables`."""

from typing import NamedTuple

import pandas as pd

from interp.schemas.layer_list import layers_text
from interp.schemas.layers import GateVerdict, Layers
from interp.schemas.record import Interval
from interp.schemas.tested_features import FeatureEntry, Place
from interp.views.numbers import PERCENT, number
from interp.views.overview import Facts
from interp.views.report.feature_explorer import SIMILAR, page_of
from interp.views.tables.feature import causal_facts
from interp.views.tables.gate import gate_name

CARDS = 6
"""Number of features with a card, the first ones; the table has all that were tested."""
CAUTION = (
    "A feature that moves with the flips need not cause them. The evidence is the share of the margin shift that comes "
    "back when the feature's change is undone, on other patients and relative to its controls."
)
HEADLINES: dict[GateVerdict, str] = {
    "gate found": "Gate found in {layers}",
    "arrives from the question": "The difference arrives at {layers}, from the tokens of the question",
    "as answers form": "No gate: the wording disturbs {layers}, where all answers form",
    "spread over layers": "No gate: flips arise all over {layers}",
    "no gate found": "No gate found",
    "too few flips": "Too few flips to look for a gate",
}
"""Verdict -> the headline of the page."""
SCREEN_P = 0.05
"""Adjusted p below which a feature of the screen is counted."""


class Card(NamedTuple):
    """One feature that was patched."""

    entry: FeatureEntry
    """The measurements."""
    name: str
    """LAYER:FEATURE."""
    chart: str
    """Name of the card's chart."""
    says: str
    """What the numbers come to, in words."""
    facts: Facts
    """The numbers."""


def headline(found: Layers) -> str:
    """The verdict in a few words."""
    gate = f", reading {gate_name(found.gate)}" if found.gate else ""
    layers = f"layer{'s' if len(found.layers) > 1 else ''} {layers_text(found.layers)}"
    return HEADLINES[found.verdict].format(layers=layers) + gate


def screen_says(screened: pd.DataFrame) -> str:
    """How many features there were to choose from."""
    discriminating = int((screened["flip_p"] < SCREEN_P).sum())
    return (
        f"{len(screened):,} features are active at least once on these questions; the size of their change "
        f"discriminates flips from other pairs in {discriminating:,} (adjusted p < .05, selection half)."
    )


def cards(found: Layers) -> list[Card]:
    """A card for each of the first features that were patched."""
    return [
        Card(
            entry,
            f"{entry.layer}:{entry.feature}",
            f"dose-{entry.layer}-{entry.feature}",
            _says(entry),
            [*_card_facts(entry), *_page_facts(found, entry)],
        )
        for entry in [entry for entry in found.features if entry.causal][:CARDS]
    ]


def _card_facts(entry: FeatureEntry) -> Facts:
    known = [
        (
            "Mean |delta| on flips and on other pairs",
            f"{number(entry.delta_on_flips)}, {number(entry.delta_otherwise)}",
        ),
        ("Correlation of delta with the margin shift", number(entry.margin_r, sign=True)),
        ("Flip AUC of |delta|, held out", number(entry.held_out_auc)),
        ("Register AUC", f"{number(entry.register_auc)}{_register(entry.register_auc)}"),
        (
            "Feature density",
            f"active on {number(entry.density, PERCENT)}% of the wordings, mean activation "
            f"{number(entry.mean_activation)}",
        ),
    ]
    return known + causal_facts(entry.causal) if entry.causal else known


def _page_facts(found: Layers, entry: FeatureEntry) -> Facts:
    """The feature's page on Neuronpedia, or that of the most similar feature; empty without one."""
    page = page_of(found, entry.layer, entry.feature)
    if page is None:
        return []
    text, address = page
    if not text.startswith(SIMILAR):
        return [("Neuronpedia", address)]
    return [("Neuronpedia, approximate", f"{address} {text.removeprefix(SIMILAR)}, by decoder cosine")]


def _register(auc: float | None) -> str:
    if auc is None or abs(auc - 0.5) < 0.1:
        return ""
    return ", more active on formal wordings" if auc > 0.5 else ", more active on casual wordings"


PLACES: dict[Place, str] = {
    "cause": "A cause: the layers that write the answer read it.",
    "mediator": "A mediator: it lies among the layers that write the answer.",
    "contributor": "A contributor: it works through the layers that write, but little alone.",
    "echo": "An echo: it carries the answer that other features make.",
    "bystander": "A bystander: it moves and does nothing.",
}
"""Place -> what the card of a feature says about it."""


def _says(entry: FeatureEntry) -> str:
    said = _recovers(entry)
    return f"{PLACES[entry.place]} {said}" if entry.place is not None else said


def _recovers(entry: FeatureEntry) -> str:
    net = entry.causal.net if entry.causal else Interval(value=None, low=None, high=None)
    if net.value is None or net.low is None or net.high is None:
        return "Its patch could not be distinguished from its control."
    if net.low > 0:
        return f"Undoing its change recovers {number(net.value)} of the margin shift more than random directions do."
    if net.high < 0:
        return "Undoing its change moves the answer the wrong way: it moves with the flips but does not cause them."
    return "Undoing its change does no more than a random direction."

"""The tables of a transfer check: how well each SAE describes the model on each kind of prompts."""

from interp.schemas.layer_list import layers_text
from interp.schemas.record import Interval
from interp.schemas.transfer import Transfer, TransferEntry
from interp.views.numbers import Scale
from interp.views.overview import Overview
from interp.views.table import Cell, Column, Table, estimate, p_cell, tabulate, value, words

FINE, COARSE = Scale(1.0, 3), Scale(1.0, 1)
"""How shares and distances, and how numbers of features, are printed."""


def transfer_overview(found: Transfer) -> Overview:
    """The check as the terminal shows it: one table per kind of prompts, and a sentence on the layers that fail."""
    kinds = list(dict.fromkeys(entry.prompts for entry in found.layers))
    failed = {kind: layers for kind in kinds if (layers := found.failed(kind))}
    said = [
        f"{kind}: the SAEs of layers {layers_text(layers)} explain less than {found.r2_needed:.0%} of the variance."
        for kind, layers in failed.items()
    ]
    return Overview(
        f"{found.model}: SAE transfer",
        said or [f"No SAE is shown to explain less than {found.r2_needed:.0%} of the variance."],
        [("Drift is measured from", found.reference or "nothing, as no --reference is given")],
        [transfer_table(found, kind) for kind in kinds],
    )


def transfer_table(found: Transfer, kind: str) -> Table:
    """Every layer on one kind of prompts."""
    entries = [entry for entry in found.layers if entry.prompts == kind]
    return tabulate(
        f"{kind}: {entries[0].tokens:,} tokens",
        [
            Column("layer", lambda entry: Cell(str(entry.layer), entry.layer)),
            Column("R²", lambda entry: estimate(_r2(entry), FINE)),
            Column("p", lambda entry: p_cell(entry.p)),
            Column("FVU", lambda entry: value(entry.fvu, FINE)),
            Column("L0", lambda entry: value(entry.l0, COARSE)),
            Column("dead", lambda entry: value(entry.dead)),
            Column("drift", lambda entry: value(entry.drift, FINE)),
            Column("shift", lambda entry: value(entry.shift, FINE)),
            words("verdict", lambda entry: entry.verdict),
        ],
        entries,
        f"R²: share of the variance that the SAE explains, with its 95% interval. p: against R² ≤ {found.r2_needed:g}. "
        "Drift and shift: cosine distance of the features' mean activations from those of the reference model and from "
        "those on general prompts.",
    )


def _r2(entry: TransferEntry) -> Interval:
    return Interval(value=entry.r2, low=entry.r2_low, high=entry.r2_high)

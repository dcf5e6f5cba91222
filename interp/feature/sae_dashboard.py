"""Features in the JSON that sae-dashboard reads (`sae_dashboard.sae_vis_data.SaeVisData.load_json`, version 0.8)."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from interp.feature.content import token_effects
from interp.feature.token_activations import TokenActivations
from interp.measurement.margins import measure
from interp.model.vlm import Vlm
from interp.saes.sae import Sae
from interp.statistics import FloatArray
from interp.storage.json_files import write_json

BINS, ROWS, TOP, INTERVALS, EACH = 50, 10, 20, 10, 5
"""sae-dashboard's own sizes: bars of a histogram, rows of the table of logits, wordings with the largest activation,
intervals of the activation, and wordings of each interval."""
SCALED_BY = 256
"""Most wordings whose residuals give the scale of the effects on the logits."""


def write_sae_dashboard(
    folder: Path, vlm: Vlm, sae: Sae, found: TokenActivations, prompts: Any, include_text: bool
) -> None:
    """Write `folder`/layer_L.json with the features of one SAE; token ids of the wordings only with `include_text`."""
    last = measure(vlm, prompts.iloc[:SCALED_BY], [vlm.n_layers - 1], description="scale of the logits").residuals[:, 0]
    features, most, density = {}, [], []
    for place, feature in enumerate(found.features):
        values = found.of(place)
        effects = token_effects(vlm, sae.w_dec[feature], last).numpy().astype(float)
        most.append(float(values.max()))
        density.append(float((values > 0).mean()))
        features[str(feature)] = {
            "feature_tables_data": {},
            "acts_histogram_data": _histogram(values[values > 0], f"ACTIVATIONS<br>DENSITY = {density[-1]:.3%}"),
            "logits_table_data": _extremes(effects),
            "logits_histogram_data": _histogram(effects, None),
            "sequence_data": {"seq_group_data": _groups(found, place, effects) if include_text else []},
            "prompt_data": {},
            "dfa_data": {},
            "decoder_weights_data": None,
        }
    statistics = {
        "max": most,
        "frac_nonzero": density,
        "skew": [],
        "kurtosis": [],
        "quantile_data": [],
        "quantiles": [],
    }
    write_json(folder / f"layer_{sae.layer}.json", {"feature_data_dict": features, "feature_stats": statistics})


def _histogram(values: FloatArray, title: str | None) -> dict[str, Any]:
    """Bars between the least and the largest value, as numpy's histogram; empty without values."""
    if not len(values):
        return {"bar_heights": [], "bar_values": [], "tick_vals": [], "title": title}
    heights, edges = np.histogram(values, BINS)
    middle = (edges[:-1] + edges[1:]) / 2
    ticks = np.linspace(float(min(0, edges[0])), float(edges[-1]), 5)
    return {
        "bar_heights": heights.tolist(),
        "bar_values": middle.round(5).tolist(),
        "tick_vals": ticks.round(2).tolist(),
        "title": title,
    }


def _extremes(effects: FloatArray) -> dict[str, Any]:
    order = np.argsort(effects)
    top, bottom = order[::-1][:ROWS], order[:ROWS]
    return {
        "bottom_token_ids": bottom.tolist(),
        "bottom_logits": effects[bottom].tolist(),
        "top_token_ids": top.tolist(),
        "top_logits": effects[top].tolist(),
    }


def _groups(found: TokenActivations, place: int, effects: FloatArray) -> list[dict[str, Any]]:
    """The wordings with the largest activation, then some of every interval of it; a wording is shown once a group."""
    peaks = np.array([values[:, place].max() for values in found.activations])
    different: dict[tuple[int, ...], int] = {}
    for row in np.argsort(-peaks, kind="stable"):
        different.setdefault(tuple(found.tokens[row]), int(row))
    rows = list(different.values())
    largest = float(peaks.max())
    groups = [(f"TOP ACTIVATIONS<br>MAX = {largest:.3f}", rows[:TOP])]
    values, edges = found.of(place), np.linspace(0, largest, INTERVALS + 1)
    for low, high in reversed(list(pairwise(edges))):
        share = float(((values >= low) & (values <= high)).mean())
        inside = [row for row in rows if low <= peaks[row] <= high]
        step = max(1, len(inside) // EACH)
        groups.append((f"INTERVAL {low:.3f} - {high:.3f}<br>CONTAINS {share:.3%}", inside[::step][:EACH]))
    return [
        {"title": title, "seq_data": [_sequence(found, place, row, effects) for row in chosen]}
        for title, chosen in groups
    ]


def _sequence(found: TokenActivations, place: int, row: int, effects: FloatArray) -> dict[str, Any]:
    ids, values = found.tokens[row], found.activations[row][:, place]
    return {
        "original_index": row,
        "qualifying_token_index": int(values.argmax()),
        "token_ids": ids.tolist(),
        "feat_acts": values.astype(float).round(4).tolist(),
        "token_logits": effects[ids].tolist(),
    }

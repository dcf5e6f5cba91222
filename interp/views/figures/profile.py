"""The layer profile: flip AUC of the features and recovery by the patches of every layer, with the chosen layers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from interp.schemas.layer_list import layers_text, runs_of
from interp.schemas.layers import Layers, ProfileEntry
from interp.schemas.record import Interval
from interp.views.figures.direct_labels import CurveEnd, name_curves, one_line
from interp.views.figures.style import (
    ACCENT,
    INK,
    MUTED,
    QUANTITIES,
    SCREEN,
    Size,
    intervals,
    new_figure,
    set_title,
    styled,
)
from interp.views.numbers import sentence

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEATURE_SCORES = ("flip_auc", "flip_auc_null")
"""Scores above: of the features, fields of a `ProfileEntry`."""
BAR = {"width": 0.6, "color": "none", "edgecolor": QUANTITIES["growth"], "hatch": "////", "lw": 0.6}
CURVES: dict[str, tuple[str, dict[str, Any]]] = {
    "net_answer": ("answer patch,\nnet of random", {"color": QUANTITIES["answer patch"], "marker": "D"}),
    "recovery": ("residual patch", {"color": QUANTITIES["residual patch"], "lw": 0.8}),
    "register_patch": ("register patch", {"color": QUANTITIES["register patch"], "lw": 0.8, "ls": "--"}),
}
"""Score below -> its label and how its curve is drawn. `net_answer` is `answer` - `random_answer`."""
BARS = ("answer_growth", "growth of the\nanswer patch")
"""Score of the bars below, and its label."""
EARLIER_CURVES: dict[str, tuple[str, dict[str, Any]]] = {
    "recovery": ("residual patch", {"color": QUANTITIES["residual patch"], "marker": "D"}),
    "random_patch": ("random directions", {"color": INK, "marker": "s", "ls": "--"}),
    "net_feature_patch": (
        "joint feature patch,\nnet of random",
        {"color": QUANTITIES["feature patch"], "marker": "^", "ls": ":"},
    ),
}
"""The curves of a search before schema version 3, which has no answer patch."""
EARLIER_BARS = ("net_write", "direct-effect patch,\nnet of random")
"""The bars of a search before schema version 3."""


def has_answers(artifact: Layers) -> bool:
    """Whether the search had an answer patch, as every search since schema version 3."""
    return any(entry.answer is not None for entry in artifact.profile)


def profile_frame(artifact: Layers) -> pd.DataFrame:
    """One row for each layer and score that is drawn: layer, chosen (is it to be trained?), score, value, low, high."""
    curves, bars = (CURVES, BARS) if has_answers(artifact) else (EARLIER_CURVES, EARLIER_BARS)
    rows = []
    for name in (*FEATURE_SCORES, *curves, bars[0]):
        for entry in artifact.profile:
            score = _score(entry, name)
            if score is not None:
                about = {"layer": entry.layer, "chosen": entry.layer in artifact.layers, "score": name}
                rows.append(about | score.model_dump())
    columns = ["layer", "chosen", "score", "value", "low", "high"]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(columns[3:], float))


def _score(entry: ProfileEntry, name: str) -> Interval | None:
    """A score of a layer; those that have no interval get an empty one."""
    score = net_answer(entry) if name == "net_answer" else getattr(entry, name)
    return Interval(value=score, low=None, high=None) if isinstance(score, float) else score


def net_answer(entry: ProfileEntry) -> float | None:
    """The recovery by a layer's answer patch minus that by random directions with the same gains; None if undefined."""
    if entry.answer is None or entry.random_answer is None:
        return None
    if entry.answer.value is None or entry.random_answer.value is None:
        return None
    return entry.answer.value - entry.random_answer.value


def layer_profile(artifact: Layers, axes: "Sequence[Axes] | None" = None, size: Size = SCREEN) -> "Figure":
    """Draw the held-out flip AUC (above) and the recovered share of the margin shift (below) by layer.

    Every curve is named at its right end, in its colour. `axes` are the two axes to draw into; None makes a new figure.
    """
    frame = profile_frame(artifact)
    curves, (bars, bars_label) = (CURVES, BARS) if has_answers(artifact) else (EARLIER_CURVES, EARLIER_BARS)
    of = {name: frame[frame["score"] == name] for name in (*FEATURE_SCORES, *curves, bars)}
    layers = [entry.layer for entry in artifact.profile]
    with styled(size):
        above: Any
        below: Any
        if axes is None:
            figure, (above, below) = new_figure(size, _height(size), rows=2, sharex=True, height_ratios=[0.7, 1])
            set_title(figure, profile_title(artifact), size)
        else:
            above, below = axes
            above.set_title(profile_title(artifact))

        _draw_auc(above, of["flip_auc"], of["flip_auc_null"]["value"], size, 0.25 * _height(size))
        ends = []
        for name, (label, style) in curves.items():
            curve = of[name]
            if "marker" in style and len(curve):
                intervals(below, curve["layer"], curve, label=one_line(label), **style)
            elif len(curve):
                # Lines for contrast: their intervals would hide those of the others, and the tables have them.
                below.errorbar(curve["layer"], curve["value"], label=one_line(label), **style)
            ends += _end(curve, label, style["color"])
        grown, colour = of[bars], BAR["edgecolor"]
        below.bar(grown["layer"], grown["value"].fillna(0), label=one_line(bars_label), **BAR)
        intervals(below, grown["layer"], grown, color=colour, fmt="none", lw=0.8)
        below.axhline(0, color=INK, lw=0.6)
        below.set_ylabel("recovered share\nof the margin shift")
        below.set_xlabel("layer (output, resid_post); shaded: the chosen layers")
        name_curves(below, [*ends, *_end(grown, bars_label, str(colour))], size, 0.4 * _height(size))

        for ax in (above, below):
            name_layers(ax, layers)
            ax.set_xlim(min(layers) - 0.7, max(layers) + 0.7)
            for run in runs_of(artifact.layers):
                ax.axvspan(run[0] - 0.5, run[-1] + 0.5, color=ACCENT, alpha=0.12, lw=0)
    return above.figure


def profile_title(artifact: Layers) -> str:
    """The verdict with its layers, and what it was measured on."""
    of = f" in layers {layers_text(artifact.layers)}" if artifact.layers else ""
    data = artifact.data
    counts = f"{data.flips:,} flips of {data.pairs:,} pairs, {data.patients:,} patients"
    return f"{sentence(artifact.verdict)[:-1]}{of}: {counts}"


def _draw_auc(ax: "Axes", auc: pd.DataFrame, null: "pd.Series[float]", size: Size, height: float) -> None:
    """The panel of the flip AUC, with chance and with the best layer after the flips were shuffled."""
    colour = QUANTITIES["flip AUC"]
    intervals(ax, auc["layer"], auc, color=colour, marker="o", label="flip AUC of the chosen features, held out")
    ends = _end(auc, "chosen features,\nheld out", colour)
    if len(null):
        ax.axhline(null.iloc[0], color=MUTED, ls=":")
        ends.append(CurveEnd(float(null.iloc[0]), "best layer, flips\nshuffled (95%)", MUTED))
    ax.axhline(0.5, color=INK, lw=0.6)
    ax.set_ylabel("flip AUC")
    ends.append(CurveEnd(0.5, "chance", INK))
    name_curves(ax, ends, size, height)


def _end(curve: pd.DataFrame, name: str, colour: str) -> list[CurveEnd]:
    """The right end of a curve; none if the curve has no value."""
    known = curve.dropna(subset="value")
    return [CurveEnd(float(known["value"].iloc[-1]), name, colour)] if len(known) else []


def _height(size: Size) -> float:
    return 3.2 if size.columns == 2 else 0.52 * size.width


def name_layers(ax: "Axes", layers: Sequence[int]) -> None:
    """Set a tick at every layer, or at some of them if there are many."""
    from matplotlib.ticker import MaxNLocator

    if len(layers) <= 12:
        ax.set_xticks(list(layers))
    else:
        ax.xaxis.set_major_locator(MaxNLocator(10, integer=True))

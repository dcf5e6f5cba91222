"""The layer profile: flip AUC of the features and recovery by the patches of every layer, with the chosen layers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from interp.schemas.layer_list import runs_of
from interp.schemas.layers import Layers, ProfileEntry
from interp.schemas.record import Interval
from interp.views.figures.style import (
    ACCENT,
    INK,
    MUTED,
    SCREEN,
    Size,
    add_legend,
    intervals,
    new_figure,
    set_title,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEATURE_SCORES = ("flip_auc", "flip_auc_null")
"""Scores above: of the features, fields of a `ProfileEntry`."""
BAR = {"width": 0.6, "color": "none", "edgecolor": INK, "hatch": "////", "lw": 0.6}
CURVES: dict[str, tuple[str, dict[str, Any]]] = {
    "net_answer": ("answer patch, net of random", {"color": ACCENT, "marker": "D"}),
    "recovery": ("residual patch", {"color": MUTED, "lw": 0.8}),
    "register_patch": ("register patch", {"color": INK, "lw": 0.8, "ls": "--"}),
}
"""Score below -> its label and how its curve is drawn. `net_answer` is `answer` - `random_answer`."""
BARS = ("answer_growth", "growth of the answer patch")
"""Score of the bars below, and its label."""
EARLIER_CURVES: dict[str, tuple[str, dict[str, Any]]] = {
    "recovery": ("residual patch", {"color": ACCENT, "marker": "D"}),
    "random_patch": ("random directions of the same norm", {"color": MUTED, "marker": "s", "ls": "--"}),
    "net_feature_patch": ("joint feature patch, net of random", {"color": INK, "marker": "^", "ls": ":"}),
}
"""The curves of a search before schema version 3, which has no answer patch."""
EARLIER_BARS = ("net_write", "direct-effect patch, net of random")
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

    `axes` are the two axes to draw into; None makes a new figure.
    """
    frame = profile_frame(artifact)
    title = f"{artifact.model.id}: {artifact.verdict}"
    curves, (bars, bars_label) = (CURVES, BARS) if has_answers(artifact) else (EARLIER_CURVES, EARLIER_BARS)
    of = {name: frame[frame["score"] == name] for name in (*FEATURE_SCORES, *curves, bars)}
    with styled(size):
        above: Any
        below: Any
        if axes is None:
            figure, (above, below) = new_figure(size, _height(size), rows=2, sharex=True)
            set_title(figure, title, size)
        else:
            above, below = axes
            above.set_title(title)

        auc, null = of["flip_auc"], of["flip_auc_null"]["value"]
        intervals(above, auc["layer"], auc, color=ACCENT, marker="o", label="chosen features, held out")
        if len(null):
            above.axhline(null.iloc[0], color=MUTED, ls=":", label="best layer with shuffled flips (95%)")
        above.axhline(0.5, color=INK, lw=0.6)
        above.set_ylabel("flip AUC")

        for name, (label, style) in curves.items():
            if "marker" in style and len(of[name]):
                intervals(below, of[name]["layer"], of[name], label=label, **style)
            elif len(of[name]):
                # Lines for contrast: their intervals would hide those of the others, and the tables have them.
                below.errorbar(of[name]["layer"], of[name]["value"], label=label, **style)
        grown = of[bars]
        below.bar(grown["layer"], grown["value"].fillna(0), label=bars_label, **BAR)
        intervals(below, grown["layer"], grown, color=INK, fmt="none", lw=0.8)
        below.axhline(0, color=INK, lw=0.6)
        below.set_ylabel("recovered share\nof the margin shift")
        below.set_xlabel("layer (output, resid_post)")

        for ax in (above, below):
            name_layers(ax, [entry.layer for entry in artifact.profile])
            for run in runs_of(artifact.layers):
                ax.axvspan(run[0] - 0.5, run[-1] + 0.5, color=ACCENT, alpha=0.12, lw=0, label="chosen layers")
        for group in [[above, below]] if axes is None else [[above], [below]]:
            add_legend(group, size, below=axes is None)
    return above.figure


def _height(size: Size) -> float:
    return 3.2 if size.columns == 2 else 0.52 * size.width


def name_layers(ax: "Axes", layers: Sequence[int]) -> None:
    """Set a tick at every layer, or at some of them if there are many."""
    from matplotlib.ticker import MaxNLocator

    if len(layers) <= 12:
        ax.set_xticks(list(layers))
    else:
        ax.xaxis.set_major_locator(MaxNLocator(10, integer=True))

"""The layer profile: flip AUC of the features and recovery by the patches of every layer, with the chosen range."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from interp.schemas.layers import Layers
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

PROFILE_SCORES = ("flip_auc", "flip_auc_null", "recovery", "random_patch", "net_feature_patch", "net_write")
"""The fields of a `ProfileEntry` that are drawn."""
CURVES: dict[str, tuple[str, dict[str, Any]]] = {
    "recovery": ("residual patch", {"color": ACCENT, "marker": "D"}),
    "random_patch": ("random directions of the same norm", {"color": MUTED, "marker": "s", "ls": "--"}),
    "net_feature_patch": ("joint feature patch, net of random", {"color": INK, "marker": "^", "ls": ":"}),
}
"""Score -> its label and how its curve is drawn."""


def profile_frame(artifact: Layers) -> pd.DataFrame:
    """One row for each layer and one of PROFILE_SCORES: layer, chosen (in the range), score, value, low, high."""
    rows = []
    for name in PROFILE_SCORES:
        for entry in artifact.profile:
            score = getattr(entry, name)
            if isinstance(score, float):
                score = Interval(value=score, low=None, high=None)
            if score is not None:
                about = {"layer": entry.layer, "chosen": entry.layer in artifact.layers, "score": name}
                rows.append(about | score.model_dump())
    columns = ["layer", "chosen", "score", "value", "low", "high"]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(columns[3:], float))


def layer_profile(artifact: Layers, axes: "Sequence[Axes] | None" = None, size: Size = SCREEN) -> "Figure":
    """Draw the held-out flip AUC (above) and the recovered share of the margin shift (below) by layer.

    `axes` are the two axes to draw into; None makes a new figure.
    """
    frame = profile_frame(artifact)
    title = f"{artifact.model.id}: {artifact.verdict}"
    of = {name: frame[frame["score"] == name] for name in PROFILE_SCORES}
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

        for name, (label, style) in CURVES.items():
            if len(of[name]):
                intervals(below, of[name]["layer"], of[name], label=label, **style)
        write = of["net_write"]
        hollow = {"width": 0.6, "color": "none", "edgecolor": INK, "hatch": "////", "lw": 0.6}
        below.bar(write["layer"], write["value"].fillna(0), label="direct-effect patch, net of random", **hollow)
        intervals(below, write["layer"], write, color=INK, fmt="none", lw=0.8)
        below.axhline(0, color=INK, lw=0.6)
        below.set_ylabel("recovered share\nof the margin shift")
        below.set_xlabel("layer (output, resid_post)")

        for ax in (above, below):
            name_layers(ax, [entry.layer for entry in artifact.profile])
            if artifact.layers:
                ends = artifact.layers[0] - 0.5, artifact.layers[-1] + 0.5
                ax.axvspan(*ends, color=ACCENT, alpha=0.12, lw=0, label="chosen layers")
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

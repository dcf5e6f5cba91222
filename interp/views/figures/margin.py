"""A feature's delta against the margin shift, one point for each pair."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from interp.views.figures.style import ACCENT, DENSE, INK, MUTED, SCREEN, Size, panel, rounded

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLES: dict[str, dict[str, Any]] = {
    "answer stays": {"s": 5, "color": MUTED, "alpha": 0.5},
    "answer flips": {"s": 14, "color": ACCENT, "marker": "^"},
}
"""Whether the answer flips -> how the pair is drawn."""


def delta_frame(layer: int, feature: int, delta: Any, shift: Any, flipped: Any) -> pd.DataFrame:
    """One row for each pair of an original q and a paraphrase p: layer, feature, delta, shift, flipped.

    `delta` [pairs] is the feature's f(p) - f(q) [activation units], `shift` [pairs] the margin shift m(p) - m(q)
    [logits], and `flipped` [pairs] says whether the answer changes. Numbers have six significant digits and rows are
    sorted, so that no row can be traced to its pair.
    """
    table = {"layer": layer, "feature": feature, "delta": delta, "shift": shift, "flipped": flipped}
    return rounded(pd.DataFrame(table)).sort_values(["delta", "shift"], ignore_index=True)


def delta_against_margin(frame: pd.DataFrame, ax: "Axes | None" = None, size: Size = SCREEN) -> "Figure":
    """The figure of a `delta_frame`, with flipped and other pairs marked and Pearson's r of all pairs in the title."""
    flipped = frame["flipped"].to_numpy(bool)
    height = 2.4 if size.columns == 2 else 0.48 * size.width
    varies = len(frame) > 1 and frame["delta"].std() > 0 and frame["shift"].std() > 0
    r = f"r = {np.corrcoef(frame['delta'], frame['shift'])[0, 1]:.2f}" if varies else "r undefined"
    whose = f"Layer {frame['layer'].iloc[0]}, feature {frame['feature'].iloc[0]}: " if len(frame) else ""
    with panel(ax, size, height, f"{whose}{r}, {len(frame)} pairs") as axes:
        for named, style in STYLES.items():
            shown = frame[flipped == (named == "answer flips")]
            axes.scatter(
                shown["delta"],
                shown["shift"],
                lw=0,
                rasterized=len(frame) > DENSE,
                label=f"{named} (n = {len(shown)})",
                **style,
            )
        axes.axhline(0, color=INK, lw=0.6)
        axes.axvline(0, color=INK, lw=0.6)
        axes.set_xlabel("activation, paraphrase − original")
        axes.set_ylabel("answer margin [logits],\nparaphrase − original")
    return axes.figure

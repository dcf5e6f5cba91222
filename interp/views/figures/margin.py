"""A feature's delta against the margin shift, one point for each pair, or their density where there are many."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from interp.views.figures.density import BAND, draw_column, draw_hexagons
from interp.views.figures.style import INK, QUANTITIES, SCREEN, Size, panel, rounded
from interp.views.numbers import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLES: dict[str, dict[str, Any]] = {
    "answer stays": {"s": 5, "color": QUANTITIES["no flip"], "alpha": 0.5},
    "answer flips": {"s": 12, "color": QUANTITIES["flip"], "marker": "^"},
}
"""Whether the answer flips -> how the pair is drawn."""
DENSE = 600
"""Most points of one kind that are drawn one by one; more become hexagons."""
ZEROS = 30
"""Most points of one kind at delta 0 that are drawn one by one; more become a density of their shifts."""


def delta_frame(layer: int, feature: int, delta: Any, shift: Any, flipped: Any) -> pd.DataFrame:
    """One row for each pair of an original q and a paraphrase p: layer, feature, delta, shift, flipped.

    `delta` [pairs] is the feature's f(p) - f(q) [activation units], `shift` [pairs] the margin shift m(p) - m(q)
    [logits], and `flipped` [pairs] says whether the answer changes. Numbers have six significant digits and rows are
    sorted, so that no row can be traced to its pair.
    """
    table = {"layer": layer, "feature": feature, "delta": delta, "shift": shift, "flipped": flipped}
    return rounded(pd.DataFrame(table)).sort_values(["delta", "shift"], ignore_index=True)


def delta_against_margin(frame: pd.DataFrame, ax: "Axes | None" = None, size: Size = SCREEN) -> "Figure":
    """The figure of a `delta_frame`, with flipped and other pairs marked and Pearson's r of all pairs in the title.

    Where a kind of pairs has more than ZEROS in which the feature does not change, these are drawn as a density of
    their shifts at delta 0, and where it has more than DENSE others, those as hexagons.
    """
    flipped = frame["flipped"].to_numpy(bool)
    height = 2.4 if size.columns == 2 else 0.48 * size.width
    varies = len(frame) > 1 and frame["delta"].std() > 0 and frame["shift"].std() > 0
    r = f"r = {number(np.corrcoef(frame['delta'], frame['shift'])[0, 1])}" if varies else "r undefined"
    whose = f"Layer {frame['layer'].iloc[0]}, feature {frame['feature'].iloc[0]}: " if len(frame) else ""
    with panel(ax, size, height, f"{whose}{r}, {len(frame):,} pairs") as axes:
        axes.axhline(0, color=INK, lw=0.6)
        axes.axvline(0, color=INK, lw=0.6)
        width = BAND * (float(np.ptp(frame["delta"])) or 1) if len(frame) else 1
        for named, style in STYLES.items():
            _draw_pairs(axes, frame[flipped == (named == "answer flips")], named, style, width)
        axes.set_xlabel("change of activation, paraphrase − original")
        axes.set_ylabel("change of answer margin [logits],\nparaphrase − original")
    return axes.figure


def _draw_pairs(axes: "Axes", pairs: pd.DataFrame, named: str, style: dict[str, Any], width: float) -> None:
    """Draw the pairs of one kind: points, or their density."""
    silent = (pairs["delta"] == 0).to_numpy()
    zeros, rest = (pairs[silent], pairs[~silent]) if silent.sum() > ZEROS else (pairs[:0], pairs)
    label = f"{named} (n = {len(pairs):,}{f', at 0: {len(zeros):,}' if len(zeros) else ''})"
    if len(rest) > DENSE:
        draw_hexagons(axes, rest["delta"].to_numpy(), rest["shift"].to_numpy(), style["color"])
        rest = rest[:0]
    axes.scatter(rest["delta"], rest["shift"], lw=0, label=label, **style)
    if len(zeros):
        draw_column(axes, 0, zeros["shift"].to_numpy(), width, style["color"], alpha=0.8, lw=0)

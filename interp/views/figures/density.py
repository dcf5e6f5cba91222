"""Density of points that would cover each other: hexagons whose opacity grows with the number of points in them."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CELLS = 42
"""Hexagons along x."""
SHADES = 6
"""Steps of opacity, each twice as many points as the one below; few, so that an SVG has few styles."""
BAND = 0.03
"""Half of the width of the densest place of `draw_column`, as a share of the range of x."""


def draw_hexagons(ax: "Axes", x: NDArray[Any], y: NDArray[Any], colour: str) -> None:
    """Draw points [n] as hexagons; the opacity tells how many, on a logarithmic scale."""
    from matplotlib.colors import to_rgba

    drawn = ax.hexbin(x, y, gridsize=(CELLS, int(0.6 * CELLS)), mincnt=1, linewidths=0)
    counts = np.asarray(drawn.get_array(), float)
    shade = np.clip(np.floor(np.log2(np.maximum(counts, 1))) + 1, 1, SHADES) / SHADES
    drawn.set_array(None)
    drawn.set_facecolor([to_rgba(colour, float(0.15 + 0.75 * s)) for s in shade])


def draw_column(ax: "Axes", x: float, values: NDArray[Any], width: float, colour: str, **style: Any) -> None:
    """Draw points that all have the same x as a symmetric density of their values [n], about `width` wide."""
    low, high = float(values.min()), float(values.max())
    edges = np.linspace(low, high if high > low else low + 1e-6, 41)
    counts, _ = np.histogram(values, edges)
    # A square root keeps the few points away from the most frequent value visible.
    reach = width * np.sqrt(counts / max(1, counts.max()))
    ax.fill_betweenx(np.repeat(edges, 2)[1:-1], x - np.repeat(reach, 2), x + np.repeat(reach, 2), color=colour, **style)

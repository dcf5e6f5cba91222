"""Names beside the curves that they name, in place of a legend."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from interp.views.figures.style import Size

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GAP = 5
"""Distance between the end of a curve and its name [pt]."""


class CurveEnd(NamedTuple):
    """The right end of a curve, and what it is called."""

    y: float
    """Value at its last point, in units of the axis."""
    name: str
    """Its name; a line break begins a new line."""
    colour: str
    """Its colour, in which the name is written."""


def name_curves(ax: "Axes", ends: list[CurveEnd], size: Size, height: float) -> None:
    """Write the names of curves right of the axes, each at the height of its end, moved apart where they overlap.

    Call it last, when the limits of the axes are final. `height` is about that of the axes [in].
    """
    ends = [end for end in ends if np.isfinite(end.y)]
    if not ends:
        return
    points = height * 72
    span = ax.get_ylim()
    own = ax.transData.transform([(0, end.y) for end in ends])[:, 1]
    low, high = ax.transData.transform([(0, limit) for limit in span])[:, 1]
    at = points * (own - low) / (high - low)
    lines = np.array([1.25 * size.small * (end.name.count("\n") + 1) for end in ends])
    for end, place in zip(ends, apart(at, lines, points), strict=True):
        ax.annotate(
            end.name,
            (1, place / points),
            (GAP, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            color=end.colour,
            fontsize=size.small,
            va="center",
            linespacing=1.05,
            annotation_clip=False,
        )


def apart(at: NDArray[Any], heights: NDArray[Any], room: float) -> NDArray[np.float64]:
    """Centres [n] nearest to `at` [n] at which labels of these heights [n] do not overlap, between 0 and `room`.

    Labels keep their order. Where there is no room for all, they run over the upper end.
    """
    order = np.argsort(at, kind="stable")
    centres, half = at[order].astype(float), heights[order] / 2
    # Upwards nobody stands on another, then downwards nobody is above the end.
    centres[0] = max(centres[0], half[0])
    for i in range(1, len(centres)):
        centres[i] = max(centres[i], centres[i - 1] + half[i - 1] + half[i])
    if centres[-1] + half[-1] > room >= 2 * half.sum():
        centres[-1] = room - half[-1]
        for i in range(len(centres) - 2, -1, -1):
            centres[i] = min(centres[i], centres[i + 1] - half[i + 1] - half[i])
    found = np.empty_like(centres)
    found[order] = centres
    return found


def one_line(name: str) -> str:
    """The name of a curve without line breaks, as what reads the series of a figure knows it."""
    return name.replace("\n", " ")

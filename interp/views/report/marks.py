"""The values of a chart at the places where they are drawn, for those who point at them or step through them."""

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from interp.schemas.record import Interval
from interp.views.numbers import interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_POINTS = 120
"""Most values of one series that are shown; of a denser one, as a training, as many at equal distances."""
POINT = 72
"""Points in an inch."""


class Mark(NamedTuple):
    """One value of a chart."""

    x: float
    """Distance from the left edge of the drawing [pt]."""
    y: float
    """Distance from its upper edge [pt]."""
    text: str
    """What is drawn there: the series, its place on the other axis, and the value with its interval."""


class _Series(NamedTuple):
    """Values of one series: x and y [n], and the interval of each or None."""

    name: str
    x: Any
    y: Any
    ends: Sequence[Interval | None]


def marks_of(figure: "Figure") -> list[Mark]:
    """The values of every labelled series of a figure that was drawn, series by series."""
    height, dots = figure.get_figheight() * POINT, figure.dpi
    found = []
    for ax in figure.axes:
        parts: list[Any] = [ax, *ax.child_axes]
        for part in parts:
            for series in _series(part):
                places = part.transData.transform(np.column_stack([series.x, series.y])) * POINT / dots
                texts = [_said(part, series, i) for i in range(len(series.x))]
                found += [
                    Mark(round(float(x), 1), round(height - float(y), 1), text)
                    for (x, y), text in zip(places, texts, strict=True)
                    if np.isfinite(x) and np.isfinite(y)
                ]
    return found


def _series(ax: "Axes") -> Iterator[_Series]:
    from matplotlib.collections import PathCollection
    from matplotlib.container import BarContainer, ErrorbarContainer

    inside = set()
    for container in ax.containers:
        if isinstance(container, ErrorbarContainer) and container.lines[0] is not None:
            inside.add(container.lines[0])
            if _is_named(container):
                yield _of_errorbars(container)
        elif isinstance(container, BarContainer) and _is_named(container):
            bars = container.patches
            x, y = [bar.get_x() + bar.get_width() / 2 for bar in bars], [bar.get_height() for bar in bars]
            yield _Series(str(container.get_label()), np.array(x), np.array(y), [None] * len(bars))
    for line in ax.lines:
        points = np.asarray(line.get_xydata(), float)
        # A line across the axes, as that of the mean, has one coordinate that is no value.
        if line not in inside and _is_named(line) and len(points) and line.get_transform() == ax.transData:
            points = _thinned(points)
            yield _Series(str(line.get_label()), points[:, 0], points[:, 1], [None] * len(points))
    for cloud in ax.collections:
        points = np.asarray(cloud.get_offsets(), float)
        if isinstance(cloud, PathCollection) and _is_named(cloud) and len(points):
            points = _thinned(points)
            name = re.sub(r" \(n = .*", "", str(cloud.get_label()))
            yield _Series(name, points[:, 0], points[:, 1], [None] * len(points))


def _is_named(artist: Any) -> bool:
    """Whether an artist has a name of its own; matplotlib's begin with an underscore."""
    return not str(artist.get_label()).startswith("_")


def _thinned(points: Any) -> Any:
    """Points [n, 2], at most MOST_POINTS of them."""
    return points[np.unique(np.linspace(0, len(points) - 1, min(len(points), MOST_POINTS)).astype(int))]


def _of_errorbars(container: Any) -> _Series:
    """The points of error bars, each with the ends of its bar along the axis that the bars run along."""
    line, _, bars = container.lines
    x, y = (np.asarray(values, float) for values in line.get_data())
    ends: list[Interval | None] = [None] * len(x)
    if bars:
        along = 0 if container.has_xerr else 1
        for i, segment in enumerate(bars[0].get_segments()):
            if len(segment) == 2 and segment[0][along] != segment[1][along]:
                low, high = float(segment[0][along]), float(segment[1][along])
                ends[i] = Interval(value=float((x, y)[along][i]), low=low, high=high)
    return _Series(str(container.get_label()), x, y, ends)


def _said(ax: "Axes", series: _Series, i: int) -> str:
    """What is drawn at the point i of a series."""
    rows = _rows(ax)
    if rows:
        row = rows[min(rows, key=lambda place: abs(place - float(series.y[i])))]
        where, value = row, float(series.x[i])
    else:
        where, value = f"{_quantity(ax)} {_short(float(series.x[i]))}", float(series.y[i])
    shown = interval(series.ends[i] or Interval(value=value, low=None, high=None))
    return f"{series.name}, {where}: {shown}"


def _rows(ax: "Axes") -> dict[float, str]:
    """The names of the rows of a chart that has rows, by their place on y; empty for other charts."""
    from matplotlib.ticker import FixedLocator, FuncFormatter

    locator, formatter = ax.yaxis.get_major_locator(), ax.yaxis.get_major_formatter()
    # This is what setting ticks together with their names makes.
    if not (isinstance(locator, FixedLocator) and isinstance(formatter, FuncFormatter)):
        return {}
    return {float(place): formatter(place).replace("\n", " ").rstrip(" ↑↓") for place in ax.get_yticks()}


def _quantity(ax: "Axes") -> str:
    """What runs along x, without its explanation."""
    of = ax if ax.get_xlabel() or not ax.figure else ax.figure.axes[-1]
    return re.split(r"\s*[\[(;,\n]", of.get_xlabel().replace("share of the\n", "share of the "))[0] or "at"


def _short(value: float) -> str:
    return f"{value:.4g}".replace("-", "−")

"""The one style of all figures, and saving a figure as PNG and SVG with its data as CSV.

Series differ in marker, line or hatch and not only in colour, so that figures can be read in black and white and by
colour-blind readers; the colours are those of Okabe and Ito (2008), the lighter of them darkened to a contrast of 3 to
1. A quantity has one colour in all figures (QUANTITIES).
"""

import io
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from interp.storage.atomic import atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, ACCENT, MUTED = "#1a1a1a", "#0072b2", "#8a8a8a"
ORANGE, GREEN, PURPLE, SKY, GOLD = "#d55e00", "#00875f", "#b05c8f", "#2f8fc4", "#b07800"
SERIES: tuple[dict[str, Any], ...] = (
    {"color": INK, "marker": "o"},
    {"color": ACCENT, "marker": "s"},
    {"color": ORANGE, "marker": "^"},
    {"color": GREEN, "marker": "D"},
    {"color": PURPLE, "marker": "v"},
    {"color": MUTED, "marker": "P"},
    {"color": SKY, "marker": "X"},
    {"color": GOLD, "marker": "*"},
)
"""Colours and markers of the arms, the first of which is the base; a ninth arm looks like the first."""
QUANTITIES = {
    "answer patch": ACCENT,
    "growth": ORANGE,
    "register patch": GREEN,
    "residual patch": MUTED,
    "flip AUC": PURPLE,
    "feature patch": GOLD,
    "formal": ACCENT,
    "casual": ORANGE,
    "flip": ORANGE,
    "no flip": MUTED,
}
"""Quantity or kind of wording or pair -> its colour in every figure."""
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "errorbar.capsize": 1.5,
    "hatch.linewidth": 0.5,
    "legend.frameon": False,
    "lines.linewidth": 1.1,
    "xtick.color": INK,
    "ytick.color": INK,
    # A name with dollar signs is not a formula.
    "text.parse_math": False,
    # Letters become outlines, so that a figure looks the same where its fonts are not installed.
    "svg.fonttype": "path",
    # Without it the ids inside an SVG are random.
    "svg.hashsalt": "gatescope",
}
"""Changes to matplotlib's own defaults; the user's matplotlibrc has no effect."""
LETTER = 0.55
"""Mean width of a letter, as a share of the font size."""


class Size(NamedTuple):
    """The size that a figure is drawn in."""

    width: float
    """Width of the figure [in]."""
    font: float
    """Font size of titles and of the labels of axes [pt]."""
    small: float
    """Font size of ticks and legends [pt]."""
    dpi: int
    """Resolution of the PNG file and of images inside the SVG [pixels per inch]."""

    @property
    def columns(self) -> int:
        """Number of panels side by side."""
        return 2 if self.width < 5 else 3

    @property
    def row(self) -> float:
        """Height of a row of a chart whose rows each have a line of text [in]."""
        return 1.2 * self.small / 72


SIZES = {"screen": Size(8, 9, 8, 150), "column": Size(3.3, 7.5, 7, 300), "page": Size(6.9, 8, 7, 300)}
"""Sizes for a screen, for one column of a paper, and for the full width of its page."""
SCREEN = SIZES["screen"]


def import_drawing() -> None:
    """Import what `save_figure` needs, which takes up to half a second, before it is needed."""
    import matplotlib.backends.backend_agg
    import matplotlib.backends.backend_svg
    import matplotlib.figure
    import matplotlib.style  # noqa: F401


class Drawing(NamedTuple):
    """A figure that is not drawn yet."""

    name: str
    """Name of its files without their endings."""
    frame: pd.DataFrame
    """The data of the figure, which is the content of the CSV file."""
    draw: Callable[[Size], "Figure"]
    """Draws the figure in a size."""


@contextmanager
def styled(size: Size) -> Iterator[None]:
    """Inside this context, matplotlib uses the style and the font sizes of `size`."""
    from matplotlib import style

    fonts = {"font.size": size.font, "axes.titlesize": size.font, "axes.labelsize": size.font}
    fonts |= {"xtick.labelsize": size.small, "ytick.labelsize": size.small, "legend.fontsize": size.small}
    fonts |= {"lines.markersize": 0.45 * size.small}
    with style.context(["default", STYLE | fonts]):
        yield


def new_figure(
    size: Size, height: float, rows: int = 1, columns: int = 1, **shared: Any
) -> tuple["Figure", list["Axes"]]:
    """A new figure `height` inches high and as wide as `size` says, with its axes by row.

    `shared` goes to matplotlib's `Figure.subplots`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(size.width, height), dpi=size.dpi, layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, **shared).flat)
    for ax in axes:
        # Ticks are made only when a figure is saved, and would otherwise have the style of that moment.
        ax.tick_params(labelsize=size.small, color=INK, labelcolor=INK)
    return figure, axes


@contextmanager
def panel(ax: "Axes | None", size: Size, height: float, title: str) -> Iterator[Any]:
    """Axes to draw into in the style: `ax`, or those of a new figure. A legend is added at the end."""
    with styled(size):
        if ax is None:
            figure, (axes,) = new_figure(size, height)
            set_title(figure, title, size)
        else:
            axes = ax
            axes.set_title(title)
        yield axes
        add_legend([axes], size, below=ax is None)


def panel_grid(
    size: Size, count: int, height: float, columns: int | None = None, **shared: Any
) -> tuple["Figure", list["Axes"]]:
    """A new figure of `count` panels, in rows `height` inches high; the rest of the last row stays empty."""
    columns = min(columns or size.columns, count)
    rows = -(-count // columns)
    figure, axes = new_figure(size, rows * height, rows, columns, **shared)
    for spare in axes[count:]:
        spare.remove()
    return figure, axes[:count]


def add_legend(axes: Sequence["Axes"], size: Size, below: bool) -> None:
    """Add a legend with each series once: below the figure, which grows, or inside the first axes."""
    from matplotlib.container import Container

    entries = [entry for ax in axes for entry in zip(*ax.get_legend_handles_labels(), strict=True)]
    # Series come before reference lines and areas.
    entries.sort(key=lambda entry: not isinstance(entry[0], Container))
    found = {label: handle for handle, label in entries}
    if not found:
        return
    if not below:
        axes[0].legend(found.values(), found.keys())
        return
    figure: Any = axes[0].figure
    room = figure.get_figwidth() / ((max(map(len, found)) + 7) * LETTER * size.small / 72)
    columns = max(1, min(len(found), int(room)))
    figure.set_figheight(figure.get_figheight() + (1.45 * -(-len(found) // columns) + 1) * size.row)
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=columns)


def set_title(figure: "Figure", text: str, size: Size) -> None:
    """Add a title above the figure, which grows by the lines of the title."""
    lines = textwrap.wrap(text, int(size.width * 72 / (LETTER * size.font)) - 1)
    if lines:
        figure.set_figheight(figure.get_figheight() + (1.2 * len(lines) + 0.5) * size.font / 72)
        figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=size.font)


def lines_of(text: str, size: Size) -> str:
    """The label of a panel, broken into lines that fit its width."""
    return textwrap.fill(text, 19 if size.columns == 2 else 30)


def intervals(ax: "Axes", places: Any, frame: pd.DataFrame, across: bool = False, **style: Any) -> None:
    """Draw the column `value` of a frame as points, with their intervals from `low` to `high` where there are any.

    `places` [rows] are the positions on the other axis; with `across`, values run along x.
    """
    value, low, high = frame[["value", "low", "high"]].to_numpy(float).T
    reach = np.maximum(0, np.stack([value - low, high - value]))
    if across:
        ax.errorbar(value, places, xerr=reach, **style)
    else:
        ax.errorbar(places, value, yerr=reach, **style)


def name_rows(ax: "Axes", names: Sequence[str], letters: int) -> list[float]:
    """Label the rows of a chart along y, from the top, in lines of at most `letters` letters.

    Returns the positions of the rows, which are further apart where a label has more lines.
    """
    lines = [textwrap.wrap(name, letters) or [""] for name in names]
    heights = np.array([len(each) for each in lines], float)
    places = np.cumsum(heights) - heights / 2
    ax.set_yticks(places, ["\n".join(each) for each in lines], linespacing=1)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(heights.sum() + 0.2, -0.2)
    return places.tolist()


def dodged(count: int) -> list[float]:
    """Offsets [count] of `count` series around the position of their row."""
    return [0.7 * ((i + 0.5) / count - 0.5) for i in range(count)]


def rounded(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame with numbers of six significant digits, so that its CSV file is short and complete."""
    numbers = frame.select_dtypes("floating").columns
    return frame.astype(dict.fromkeys(numbers, float)).assign(
        **{name: [float(f"{x:.6g}") for x in frame[name]] for name in numbers}
    )


def svg_of(figure: "Figure") -> str:
    """A figure as SVG text; the same figure gives the same text."""
    text = io.StringIO()
    with styled(SCREEN):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def save_figure(figure: "Figure", path: Path, frame: pd.DataFrame) -> list[Path]:
    """Write `path`.svg, `path`.png and `path`.csv, the data of the figure, atomically; returns the three paths.

    The CSV file has every digit, so that reading it gives the same frame.
    """
    svg, png, csv = paths = figure_paths(path)
    # The SVG comes first: a figure that was drawn before may differ in its last digits.
    drawn = svg_of(figure)
    with atomic_file(svg) as svg_partial, atomic_file(png) as png_partial, atomic_file(csv) as csv_partial:
        svg_partial.write_text(drawn, encoding="utf-8")
        with styled(SCREEN):
            figure.savefig(png_partial, format="png")
        frame.to_csv(csv_partial, index=False)
    return paths


def figure_paths(path: Path) -> list[Path]:
    """The paths that `save_figure` writes: SVG, PNG and CSV."""
    return [path.with_name(path.name + ending) for ending in (".svg", ".png", ".csv")]


def save_figures(drawings: Sequence[Drawing], folder: Path, size: Size = SCREEN) -> list[Path]:
    """Draw figures and write their files into `folder`; returns the paths."""
    return [path for d in drawings for path in save_figure(d.draw(size), folder / d.name, d.frame)]


def read_frame(path: Path) -> pd.DataFrame:
    """Read the frame that `save_figure` wrote."""
    return pd.read_csv(path, float_precision="round_trip")

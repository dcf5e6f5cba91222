"""The one style of all figures, and writing a figure as PNG and SVG with its data beside it as CSV.

Series differ in marker, line or hatch and not in colour alone, so that figures can be read in black and white and by
colour-blind eyes; colours are those of Okabe and Ito (2008).
"""

import base64
import io
import re
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
SERIES: tuple[dict[str, Any], ...] = (
    {"color": INK, "marker": "o"},
    {"color": ACCENT, "marker": "s"},
    {"color": "#d55e00", "marker": "^"},
    {"color": "#009e73", "marker": "D"},
    {"color": "#cc79a7", "marker": "v"},
    {"color": MUTED, "marker": "P"},
    {"color": "#56b4e9", "marker": "X"},
    {"color": "#e69f00", "marker": "*"},
)
"""Colour and marker of the arms, the base being the first; a ninth looks like the first."""
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
    # A name with dollar signs is no formula.
    "text.parse_math": False,
    # Letters as outlines: a figure looks, and fits its canvas, the same where these fonts are not installed.
    "svg.fonttype": "path",
    # Without it the names inside of an SVG are drawn at random.
    "svg.hashsalt": "gatescope",
}
"""On top of matplotlib's own defaults, whatever a user's matplotlibrc says."""
DENSE = 2000
"""Most points that an SVG draws one by one; more become an image inside of it."""
LETTER = 0.55
"""Mean width of a letter, as a share of the font size."""
_IMAGE = re.compile(r"(data:image/png;base64,)([^\"]+)")


class Size(NamedTuple):
    """What a figure is drawn for."""

    width: float
    """Of the figure [in]."""
    font: float
    """Of titles and the names of axes [pt]."""
    small: float
    """Of ticks and legends [pt]."""
    dpi: int
    """Of the PNG file, and of what is an image inside of the SVG."""

    @property
    def columns(self) -> int:
        """Panels that stand side by side."""
        return 2 if self.width < 5 else 3

    @property
    def row(self) -> float:
        """Height of a row of a chart with a line of text for each [in]."""
        return 1.2 * self.small / 72


SIZES = {"screen": Size(8, 9, 8, 150), "column": Size(3.3, 7.5, 7, 300), "page": Size(6.9, 8, 7, 300)}
"""On a screen, across one column of a paper, across its page."""
SCREEN = SIZES["screen"]


class Drawing(NamedTuple):
    """A figure that is not drawn yet."""

    name: str
    """Of its files, without their endings."""
    frame: pd.DataFrame
    """Its data, the content of the CSV file."""
    draw: Callable[[Size], "Figure"]
    """Draws it."""


@contextmanager
def styled(size: Size) -> Iterator[None]:
    """While open, what matplotlib makes has the style and the fonts of `size`."""
    from matplotlib import style

    fonts = {"font.size": size.font, "axes.titlesize": size.font, "axes.labelsize": size.font}
    fonts |= {"xtick.labelsize": size.small, "ytick.labelsize": size.small, "legend.fontsize": size.small}
    fonts |= {"lines.markersize": 0.45 * size.small}
    with style.context(["default", STYLE | fonts]):
        yield


def new_figure(
    size: Size, height: float, rows: int = 1, columns: int = 1, **shared: Any
) -> tuple["Figure", list["Axes"]]:
    """A figure `height` inches high, as wide as `size` says, and its axes by row, which make room for each other.

    `shared` goes to matplotlib's `Figure.subplots`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(size.width, height), dpi=size.dpi, layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, **shared).flat)
    for ax in axes:
        # Ticks are made as late as when a figure is written, and would have the style of then.
        ax.tick_params(labelsize=size.small, color=INK, labelcolor=INK)
    return figure, axes


@contextmanager
def panel(ax: "Axes | None", size: Size, height: float, title: str) -> Iterator[Any]:
    """Axes to draw into with the style on: those given, or those of a new figure; a legend is added at the end."""
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
    """A figure of `count` panels, in rows `height` inches high; what is left of the last row stays empty."""
    columns = min(columns or size.columns, count)
    rows = -(-count // columns)
    figure, axes = new_figure(size, rows * height, rows, columns, **shared)
    for spare in axes[count:]:
        spare.remove()
    return figure, axes[:count]


def add_legend(axes: Sequence["Axes"], size: Size, below: bool) -> None:
    """Say what the series of some axes are, each once: below the figure, which grows, or inside of the first axes."""
    from matplotlib.container import Container

    entries = [entry for ax in axes for entry in zip(*ax.get_legend_handles_labels(), strict=True)]
    # Series before the lines and areas that they stand against.
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
    """A title above the whole figure, which grows by as many lines as it is too narrow for."""
    lines = textwrap.wrap(text, int(size.width * 72 / (LETTER * size.font)) - 1)
    if lines:
        figure.set_figheight(figure.get_figheight() + (1.2 * len(lines) + 0.5) * size.font / 72)
        figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=size.font)


def lines_of(text: str, size: Size) -> str:
    """A name for a panel among others, in lines that are no wider than it."""
    return textwrap.fill(text, 19 if size.columns == 2 else 30)


def intervals(ax: "Axes", places: Any, frame: pd.DataFrame, across: bool = False, **style: Any) -> None:
    """Points at the column `value` of a frame with their interval from `low` to `high`, where there is one.

    `places` [rows] are their places on the other axis; `across`: the values run along x.
    """
    value, low, high = frame[["value", "low", "high"]].to_numpy(float).T
    reach = np.maximum(0, np.stack([value - low, high - value]))
    if across:
        ax.errorbar(value, places, xerr=reach, **style)
    else:
        ax.errorbar(places, value, yerr=reach, **style)


def name_rows(ax: "Axes", names: Sequence[str], letters: int) -> list[float]:
    """Name the rows of a chart along y, from the top, in lines of at most `letters`.

    Returns the places of the rows, further apart where a name has more lines.
    """
    lines = [textwrap.wrap(name, letters) or [""] for name in names]
    heights = np.array([len(each) for each in lines], float)
    places = np.cumsum(heights) - heights / 2
    ax.set_yticks(places, ["\n".join(each) for each in lines], linespacing=1)
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(heights.sum() + 0.2, -0.2)
    return places.tolist()


def dodged(count: int) -> list[float]:
    """Where `count` series of one row stand, around its place [count]."""
    return [0.7 * ((i + 0.5) / count - 0.5) for i in range(count)]


def rounded(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame whose numbers have six significant digits, so that its CSV file is short and yet all of it."""
    numbers = frame.select_dtypes("floating").columns
    return frame.astype(dict.fromkeys(numbers, float)).assign(
        **{name: [float(f"{x:.6g}") for x in frame[name]] for name in numbers}
    )


def svg_of(figure: "Figure") -> str:
    """A figure as SVG; the same figure gives the same text."""
    text = io.StringIO()
    with styled(SCREEN):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return _IMAGE.sub(lambda found: found[1] + _signed(found[2]), text.getvalue())


def _signed(encoded: str) -> str:
    """A PNG in base64 that says, as figures do, that matplotlib drew it: to `interp scrub` it is no radiograph."""
    import matplotlib as mpl
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    said, signed = PngInfo(), io.BytesIO()
    said.add_text("Software", f"Matplotlib version {mpl.__version__}, https://matplotlib.org/")
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as picture:
        picture.save(signed, format="png", pnginfo=said)
    return base64.b64encode(signed.getvalue()).decode()


def save_figure(figure: "Figure", path: Path, frame: pd.DataFrame) -> list[Path]:
    """Write `path`.svg, `path`.png and `path`.csv, the frame behind the figure, whole or not at all.

    The CSV file has every digit, so that reading it gives the same frame. Returns the three paths.
    """
    svg, png, csv = paths = figure_paths(path)
    # First, for a figure that was drawn before may differ in its last digits.
    drawn = svg_of(figure)
    with atomic_file(svg) as svg_partial, atomic_file(png) as png_partial, atomic_file(csv) as csv_partial:
        svg_partial.write_text(drawn, encoding="utf-8")
        with styled(SCREEN):
            figure.savefig(png_partial, format="png")
        frame.to_csv(csv_partial, index=False)
    return paths


def figure_paths(path: Path) -> list[Path]:
    """What `save_figure` writes: SVG, PNG, CSV."""
    return [path.with_name(path.name + ending) for ending in (".svg", ".png", ".csv")]


def save_figures(drawings: Sequence[Drawing], folder: Path, size: Size = SCREEN) -> list[Path]:
    """Draw figures and write their files into `folder`; returns the paths."""
    return [path for d in drawings for path in save_figure(d.draw(size), folder / d.name, d.frame)]


def read_frame(path: Path) -> pd.DataFrame:
    """The frame that `save_figure` wrote."""
    return pd.read_csv(path, float_precision="round_trip")

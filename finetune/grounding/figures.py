"""A grounding study on disk: its result, its long table, and figures that are readable in black and white."""

from pathlib import Path
from typing import Any

import numpy as np

from finetune.grounding.study import GroundingStudy
from interp.figures import ACCENT, INK, MUTED, STYLE
from interp.files import whole_folder, write_text
from interp.images import open_image
from interp.regions import unit_boxes

PANELS = {
    ("mass", "random"): "mass in the box",
    ("coverage", "random"): "coverage of the box",
    ("pointing", "random"): "pointing game",
    ("rank_agreement", "other image"): "rank agreement with occlusion",
    ("deletion_probability", "random order"): "deletion",
    ("paraphrase_agreement", "other image"): "agreement across paraphrases",
}
"""The nets that are drawn; the tables have all."""
MARKS = {"base": {"color": INK, "marker": "o"}, "adapter": {"color": ACCENT, "marker": "s", "mfc": "none"}}
LINES = (("-", "o"), ("--", "s"), ("-.", "^"), (":", "D"), ("-", "v"), ("--", "x"))


def save_grounding(found: GroundingStudy, out: Path, examples: int = 0) -> None:
    """Write grounding.json, grounding.csv and grounding.png into the new folder `out`, all or none.

    No question text, path or patient is written. With `examples`, examples.png shows the first so many images with
    their maps and boxes. Raises InputError if `out` holds something.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with whole_folder(out) as folder, mpl.rc_context(STYLE):
        write_text(folder / "grounding.json", found.to_json())
        found.scores.to_csv(folder / "grounding.csv", index=False, float_format="%.6g")
        FigureCanvasAgg(grounding_sheet(found)).print_png(folder / "grounding.png")
        if examples:
            FigureCanvasAgg(example_sheet(found, examples)).print_png(folder / "examples.png")


def grounding_sheet(found: GroundingStudy) -> Any:
    """Nets of the maps with their intervals, and below the deletion and insertion curves of every arm."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6 + 2.8 * len(found.arms)), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=[6, 2.8 * len(found.arms)])
    above, below = parts
    for axes, (key, title) in zip(above.subplots(2, 3).ravel(), PANELS.items(), strict=True):
        _nets(axes, found, key, title)
    for row, arm in zip(below.subplots(len(found.arms), 2, squeeze=False), found.arms, strict=True):
        for axes, kind in zip(row, ("deletion", "insertion"), strict=True):
            _curves(axes, found, arm, kind)
    handles, labels = below.axes[0].get_legend_handles_labels()
    below.legend(handles, labels, loc="outside right upper", fontsize=8)
    figure.suptitle(f"{found.model}: {found.questions} questions, net of controls", x=0.01, ha="left", fontsize=11)
    return figure


def _nets(axes: Any, found: GroundingStudy, key: tuple[str, str], title: str) -> None:
    entries = [entry for entry in found.summary if (entry.score, entry.against) == key]
    names = list(dict.fromkeys(entry.map for entry in entries))
    for k, arm in enumerate(found.arms):
        mine = [entry for entry in entries if entry.arm == arm]
        value, low, high = np.array([entry.net for entry in mine], float).reshape(-1, 3).T
        places = np.array([names.index(entry.map) for entry in mine]) + 0.2 * (k - (len(found.arms) - 1) / 2)
        reach = np.nan_to_num(np.maximum(0, np.stack([value - low, high - value])))
        axes.errorbar(value, places, xerr=reach, ms=5, lw=1.2, ls="none", capsize=2, label=arm, **MARKS[arm])
    axes.axvline(0, color=MUTED, lw=0.8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(max(1, len(names)) - 0.5, -0.5)
    axes.set_title(title)
    axes.set_xlabel(f"net of {key[1]}", fontsize=8)
    if len(found.arms) > 1 and not axes.get_subplotspec().rowspan.start and not axes.get_subplotspec().colspan.start:
        axes.legend(fontsize=7)


def _curves(axes: Any, found: GroundingStudy, arm: str, kind: str) -> None:
    rows = found.curves[(found.curves["arm"] == arm) & (found.curves["kind"] == kind)]
    names = [name for name in dict.fromkeys(rows["map"]) if name != "random"]
    shades = np.linspace(0, 0.6, max(1, len(names)))
    for name, (line, marker), shade in zip(names, LINES, shades, strict=False):
        curve = rows[rows["map"] == name]
        style = {"ls": line, "marker": marker, "ms": 3.5, "lw": 1.1, "color": str(shade)}
        axes.plot(curve["share"], curve["probability"], label=name, **style)
    random = rows[rows["map"] == "random"]
    axes.plot(random["share"], random["probability"], color=ACCENT, lw=2.2, alpha=0.6, label="random order")
    axes.set_title(f"{kind}, {arm}")
    axes.set_xlabel(f"share of the cells {'gone' if kind == 'deletion' else 'come'}")
    axes.set_ylabel("probability of the answer")


def example_sheet(found: GroundingStudy, count: int) -> Any:
    """The first `count` images, a row for each arm: the box alone, then every map over the image."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    shown = [(i, arm) for i in range(min(count, found.questions)) for arm in found.arms]
    names = list(found.maps[found.arms[0]])
    figure = Figure(figsize=(1.9 * (len(names) + 1), 2.1 * len(shown)), layout="constrained")
    for row, (i, arm) in zip(figure.subplots(len(shown), len(names) + 1, squeeze=False), shown, strict=True):
        question = found.asked[i]
        picture = open_image(question.image)
        grey = np.asarray(picture.convert("L"))
        for axes, name in zip(row, [None, *names], strict=True):
            axes.imshow(grey, cmap="gray", extent=(0, 1, 1, 0))
            if name is not None:
                values = found.maps[arm][name][i].clip(0)
                side = round(len(values) ** 0.5)
                heat = (values / max(float(values.max()), 1e-12)).reshape(side, side)
                axes.imshow(heat, cmap="inferno", alpha=0.5, vmin=0, vmax=1, extent=(0, 1, 1, 0))
            for x0, y0, x1, y1 in unit_boxes(question.boxes, picture.size):
                axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, ec="white", lw=1.4))
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_title(f"{i}, {arm}" if name is None else name, fontsize=8)
    return figure

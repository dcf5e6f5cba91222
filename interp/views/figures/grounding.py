"""A grounding study: the scores of the maps net of their controls, and deletion and insertion curves."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from interp.views.figures.style import (
    INK,
    MUTED,
    SCREEN,
    SERIES,
    Drawing,
    Size,
    add_legend,
    dodged,
    intervals,
    lines_of,
    name_rows,
    panel_grid,
    set_title,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NETS = {
    ("mass", "random"): ("mass in the box", "share"),
    ("coverage", "random"): ("coverage of the box", "share"),
    ("pointing", "random"): ("pointing game", "share"),
    ("rank_agreement", "other image"): ("rank agreement with occlusion", "Spearman"),
    ("deletion_probability", "random order"): ("deletion", "probability"),
    ("paraphrase_agreement", "other image"): ("agreement across paraphrases", "Spearman"),
}
"""Score and control whose net is drawn -> its name and unit; grounding.json has all scores."""
LINES = ("-", "--", "-.", ":", "-", "--")
CURVE_KINDS = {"deletion": ("deleted", "lower is better"), "insertion": ("inserted", "higher is better")}
"""Kind of curve -> what happened to its cells, and the direction of a faithful map."""


def grounding_drawings(content: Mapping[str, Any]) -> list[Drawing]:
    """The figures of a grounding study, from the content of grounding.json."""
    nets, curves = nets_frame(content), curves_frame(content)
    title = f"{content['questions']:,} questions"
    drawn = []
    scores = f"{title}; scores net of their controls, → better"
    if len(nets):
        drawn.append(Drawing("grounding_nets", nets, lambda size: map_nets(nets, scores, size)))
    if len(curves):
        drawn.append(Drawing("grounding_curves", curves, lambda size: map_curves(curves, title, size)))
    return drawn


def nets_frame(content: Mapping[str, Any]) -> pd.DataFrame:
    """One row for each arm, map and score of NETS: arm, map, score, against (a control), n, value, low, high."""
    columns = ["arm", "map", "score", "against", "n"]
    rows = [
        {name: entry[name] for name in columns} | entry["net"]
        for entry in content["summary"]
        if (entry["score"], entry["against"]) in NETS
    ]
    ends = ["value", "low", "high"]
    return pd.DataFrame(rows, columns=[*columns, *ends]).astype(dict.fromkeys(ends, float))


def map_nets(frame: pd.DataFrame, title: str = "", size: Size = SCREEN) -> "Figure":
    """The figure of a `nets_frame`: a panel for each score, a row for each map, the arms side by side."""
    arms, maps = (list(dict.fromkeys(frame[name])) for name in ("arm", "map"))
    with styled(size):
        height = 0.65 + len(maps) * (0.5 + 0.8 * len(arms)) * size.row
        figure, axes = panel_grid(size, len(NETS), height, sharey=True)
        for ax, ((score, against), (called, unit)) in zip(axes, NETS.items(), strict=True):
            here = frame[(frame["score"] == score) & (frame["against"] == against)]
            at = dict(zip(maps, name_rows(ax, maps, 12), strict=True))
            for arm, shift, style in zip(arms, dodged(len(arms)), SERIES, strict=False):
                mine = here[here["arm"] == arm]
                places = [at[name] + shift for name in mine["map"]]
                intervals(ax, places, mine, across=True, ls="none", label=arm, **style)
            ax.axvline(0, color=INK, lw=0.6)
            ax.set_title(lines_of(called, size))
            ax.set_xlabel(lines_of(f"net of {against} [{unit}]", size))
        set_title(figure, title, size)
        add_legend(axes, size, below=True)
    return figure


def curves_frame(content: Mapping[str, Any]) -> pd.DataFrame:
    """One row for each arm, map, kind and step: arm, map ("random": random order), kind, share, margin, probability.

    `share` of the cells is deleted or inserted. `margin` [logits] and `probability` (among yes and no) are those of the
    answer to the whole image, means over the questions.
    """
    return pd.DataFrame(content["curves"], columns=["arm", "map", "kind", "share", "margin", "probability"])


def map_curves(frame: pd.DataFrame, title: str = "", size: Size = SCREEN) -> "Figure":
    """The figure of a `curves_frame`: a panel for each arm and kind, a line for each map."""
    arms = list(dict.fromkeys(frame["arm"]))
    with styled(size):
        narrow = size.columns == 2
        height, columns = (1.6, 2) if narrow else (0.32 * size.width, 4)
        figure, axes = panel_grid(size, 2 * len(arms), height, columns, sharey=True)
        shown = [(arm, kind) for arm in arms for kind in CURVE_KINDS]
        for ax, (arm, kind) in zip(axes, shown, strict=True):
            _draw_curves(ax, frame[(frame["arm"] == arm) & (frame["kind"] == kind)])
            done, good = CURVE_KINDS[kind]
            ax.set_title(f"{kind}, {arm}\n({good})")
            ax.set_xlabel(f"share of the\ncells {done}")
        figure.supylabel("probability of the answer", fontsize=size.font)
        set_title(figure, title, size)
        add_legend(axes, size, below=True)
    return figure


def _draw_curves(ax: "Axes", frame: pd.DataFrame) -> None:
    names = [name for name in dict.fromkeys(frame["map"]) if name != "random"]
    random = frame[frame["map"] == "random"]
    ax.plot(random["share"], random["probability"], color=MUTED, lw=2.6, alpha=0.7, label="random order (control)")
    for name, line, style in zip(names, LINES, (*SERIES[1:5], SERIES[7], SERIES[0]), strict=False):
        curve = frame[frame["map"] == name]
        ax.plot(curve["share"], curve["probability"], ls=line, ms=3, label=name, **style)

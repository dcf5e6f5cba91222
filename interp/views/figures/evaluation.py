"""An evaluation: the changes against the base, and the reliability of the answers."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from interp.runtime.errors import InputError
from interp.storage.atomic import refuse_used
from interp.views.figures.quadrants import quadrant_drawing
from interp.views.figures.style import (
    INK,
    MUTED,
    SCREEN,
    SERIES,
    Drawing,
    Size,
    dodged,
    figure_paths,
    intervals,
    name_rows,
    panel,
    save_figures,
)
from interp.views.labels import label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CHANGES = (
    "question_flip_rate",
    "pairwise_flip_rate",
    "accuracy",
    "balanced_accuracy",
    "calibration_error",
    "text_only_agreement",
    "swap_sensitivity",
)
"""The shares whose change is drawn; evaluation.json has all measures."""
FEW = 10
"""Fewest wordings of a point of a reliability curve."""
PARTS = ("", "_reliability", "_quadrants")
"""Endings of the names of the three figures of an evaluation."""


def evaluation_drawings(content: Mapping[str, Any], name: str = "evaluation") -> list[Drawing]:
    """The figures of an evaluation, from the content of evaluation.json; they are called `name` plus each of PARTS."""
    title = f"{content['model']}: {content['questions']} questions of {content['patients']} patients"
    changes, curves = changes_frame(content), reliability_frame(content)
    own, sure, stand = (name + part for part in PARTS)
    drawn = []
    if len(changes):
        drawn.append(Drawing(own, changes, lambda size: changes_against_base(changes, title, size=size)))
    if len(curves):
        drawn.append(Drawing(sure, curves, lambda size: reliability(curves, title, size=size)))
    if content["quadrants"]:
        drawn.append(quadrant_drawing(content, stand, title, shown_arms(content)))
    return drawn


def save_evaluation_figures(content: Mapping[str, Any], file: Path) -> list[Path]:
    """Write the figures of an evaluation beside `file`, each as PNG, SVG and CSV; returns the paths."""
    return save_figures(evaluation_drawings(content, file.with_suffix("").name), file.parent)


def refuse_drawn(file: Path) -> None:
    """Raise InputError if `file` is not a name for figures, or if a file of one of the figures exists."""
    if file.suffix not in ("", ".png", ".svg"):
        raise InputError(f"--figure {file}: expected a name that ends with .png. SVG and CSV are written beside it.")
    stem = file.with_suffix("")
    for part in PARTS:
        for path in figure_paths(stem.with_name(stem.name + part)):
            refuse_used(path)


def shown_arms(content: Mapping[str, Any]) -> dict[str, list[str]]:
    """What is drawn, the base first -> its arms. A pool stands in place of arms that differ only in their seed."""
    pools = content["pools"]
    pooled = {arm for members in pools.values() for arm in members}
    names = [next(iter(content["arms"])), *content["verdicts"]]
    return {name: pools.get(name, [name]) for name in names if name not in pooled}


def changes_frame(content: Mapping[str, Any]) -> pd.DataFrame:
    """One row for each arm or pool and measure of CHANGES: arm, measure, n, value, low, high, p.

    Values are differences from the base over all questions, as shares; p is that of the paired test.
    """
    base, *shown = shown_arms(content)
    rows = [
        {"arm": c["arm"], "measure": c["measure"], "n": c["n"]} | c["difference"] | {"p": c["p"]}
        for arm in shown
        for measure in CHANGES
        for c in content["comparisons"]
        if (c["arm"], c["measure"], c["kind"], c["reference"]) == (arm, measure, "all", base)
    ]
    return pd.DataFrame(rows, columns=["arm", "measure", "n", "value", "low", "high", "p"])


def changes_against_base(
    frame: pd.DataFrame, title: str = "", ax: "Axes | None" = None, size: Size = SCREEN
) -> "Figure":
    """The figure of a `changes_frame`: one row for each measure, the arms side by side, in percentage points."""
    arms = list(dict.fromkeys(frame["arm"]))
    measures = [name for name in CHANGES if name in set(frame["measure"])]
    height = 0.5 + len(measures) * max(1.6, 0.9 * len(arms)) * size.row
    with panel(ax, size, height, title) as axes:
        at = dict(
            zip(measures, name_rows(axes, [label(name).removesuffix(" [%]") for name in measures], 24), strict=True)
        )
        for arm, shift, style in zip(arms, dodged(len(arms)), SERIES[1:] * len(arms), strict=False):
            mine = frame[frame["arm"] == arm]
            places = [at[name] + shift for name in mine["measure"]]
            points = mine.assign(**{end: 100 * mine[end] for end in ("value", "low", "high")})
            intervals(axes, places, points, across=True, ls="none", label=arm, **style)
        axes.axvline(0, color=INK, lw=0.6)
        axes.set_xlabel("change against the base [points]")
    return axes.figure


def reliability_frame(content: Mapping[str, Any]) -> pd.DataFrame:
    """One row for each arm and bin of confidence: arm, low, n (wordings), confidence, accuracy (means).

    The first arm of a pool stands for the pool.
    """
    firsts = [members[0] for members in shown_arms(content).values()]
    rows = [point for arm in firsts for point in content["reliability"] if point["arm"] == arm]
    return pd.DataFrame(rows, columns=["arm", "low", "n", "confidence", "accuracy"])


def reliability(frame: pd.DataFrame, title: str = "", ax: "Axes | None" = None, size: Size = SCREEN) -> "Figure":
    """The figure of a `reliability_frame`: share of correct answers by confidence, in bins of at least FEW wordings.

    On the diagonal, a model is as often correct as it is confident. The evaluation has no intervals of these points.
    """
    arms = list(dict.fromkeys(frame["arm"]))
    height = 2.4 if size.columns == 2 else 0.48 * size.width
    with panel(ax, size, height, title) as axes:
        axes.plot([0.5, 1], [0.5, 1], color=MUTED, lw=0.8)
        for arm, style in zip(arms, SERIES * len(arms), strict=False):
            points = frame[(frame["arm"] == arm) & (frame["n"] >= FEW)]
            axes.plot(points["confidence"], points["accuracy"], label=arm, **style)
        axes.set_xlabel("confidence, sigmoid |m|")
        axes.set_ylabel("share of correct answers")
    return axes.figure

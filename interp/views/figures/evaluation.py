"""An evaluation: the changes against the base, and the reliability of the answers."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from interp.runtime.errors import InputError
from interp.storage.atomic import refuse_used
from interp.views.figures.quadrants import quadrant_drawing
from interp.views.figures.style import (
    GREEN,
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
from interp.views.labels import LESS_IS_BETTER, arrow, label

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
    title = f"{content['questions']:,} questions of {content['patients']:,} patients"
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
        names = [f"{label(name).removesuffix(' [%]')} {arrow(name)}" for name in measures]
        at = dict(zip(measures, name_rows(axes, names, 24), strict=True))
        for arm, shift, style in zip(arms, dodged(len(arms)), SERIES[1:] * len(arms), strict=False):
            mine = frame[frame["arm"] == arm]
            places = [at[name] + shift for name in mine["measure"]]
            points = mine.assign(**{end: 100 * mine[end] for end in ("value", "low", "high")})
            intervals(axes, places, points, across=True, ls="none", label=arm, **style)
        axes.axvline(0, color=INK, lw=0.6)
        _shade_good_sides(axes, measures, list(at.values()))
        axes.set_xlabel("change against the base [points]\n(arrow and shade: better)")
    return axes.figure


def _shade_good_sides(axes: "Axes", measures: list[str], places: list[float]) -> None:
    """Shade, in every row, the side of zero on which the measure is better than in the base."""
    left, right = axes.get_xlim()
    edges = [-0.2, *((a + b) / 2 for a, b in pairwise(places)), axes.get_ylim()[0]]
    for measure, (top, bottom) in zip(measures, pairwise(edges), strict=True):
        good = (left, 0) if measure in LESS_IS_BETTER else (0, right)
        axes.fill_between(good, top + 0.04, bottom - 0.04, color=GREEN, alpha=0.1, lw=0)
    axes.set_xlim(left, right)


def reliability_frame(content: Mapping[str, Any]) -> pd.DataFrame:
    """One row for each arm and bin of confidence: arm, bin, n (wordings), confidence, accuracy (means), low, high.

    `bin` is the lower end of the bin, and low and high are the 95% interval of the accuracy over patients, which older
    evaluations lack. The first arm of a pool stands for the pool.
    """
    firsts = [members[0] for members in shown_arms(content).values()]
    nothing = {"low": None, "high": None}
    rows = [
        {"arm": arm, "bin": point["low"]}
        | {name: point[name] for name in ("n", "confidence", "accuracy")}
        | {end: (point["interval"] or nothing)[end] for end in nothing}
        for arm in firsts
        for point in content["reliability"]
        if point["arm"] == arm
    ]
    columns = ["arm", "bin", "n", "confidence", "accuracy", "low", "high"]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(columns[3:], float))


def reliability(frame: pd.DataFrame, title: str = "", ax: "Axes | None" = None, size: Size = SCREEN) -> "Figure":
    """The figure of a `reliability_frame`: share of correct answers by confidence, with 95% intervals over patients.

    On the diagonal, a model is as often correct as it is confident. A line joins bins of at least FEW wordings;
    those of fewer are hollow. Below, on a logarithmic scale, stands the number of wordings of every bin.
    """
    arms = list(dict.fromkeys(frame["arm"]))
    height = 2.6 if size.columns == 2 else 0.5 * size.width
    with panel(ax, size, height, title) as axes:
        counts = axes.inset_axes((0, 0, 1, 0.2))
        axes.plot([0.5, 1], [0.5, 1], color=MUTED, lw=0.8)
        for arm, shift, style in zip(arms, dodged(len(arms)), SERIES * len(arms), strict=False):
            mine = frame[frame["arm"] == arm]
            points = mine.rename(columns={"accuracy": "value"}).assign(at=mine["confidence"] + 0.006 * shift)
            many, few = points[points["n"] >= FEW], points[points["n"] < FEW]
            intervals(axes, many["at"], many, label=arm, elinewidth=0.7, **style)
            axes.plot(few["at"], few["value"], ls="none", mfc="none", **style)
            counts.plot(mine["confidence"], mine["n"], lw=0.9, ms=2, **style)
        low = float(frame[["accuracy", "low"]].min().min()) if len(frame) else 0
        bottom = max(0.0, low) - 0.03
        # The lowest fifth of the panel is that of the counts.
        axes.set_ylim(bottom - 0.27 * (1.02 - bottom), 1.02)
        axes.set_yticks([tick for tick in np.arange(0, 1.01, 0.1 if bottom > 0.2 else 0.2) if tick >= bottom])
        axes.yaxis.set_major_formatter("{x:.1f}")
        axes.set_xlim(0.49, 1.01)
        axes.set_xlabel("confidence, sigmoid |m|")
        axes.set_ylabel("share of correct answers")
        _style_counts(counts, size)
    return axes.figure


def _style_counts(counts: "Axes", size: Size) -> None:
    """The axes of the numbers of wordings, which stand inside the panel of a reliability curve."""
    from matplotlib.ticker import LogLocator, NullFormatter

    counts.set_xlim(0.49, 1.01)
    counts.set_yscale("log")
    counts.set_ylim(bottom=0.8)
    counts.yaxis.set_major_locator(LogLocator(numticks=4))
    counts.yaxis.set_major_formatter("{x:,.0f}")
    counts.yaxis.set_minor_formatter(NullFormatter())
    counts.yaxis.tick_right()
    counts.spines[["left", "bottom"]].set_visible(False)
    counts.spines[["right", "top"]].set_visible(True)
    counts.spines["top"].set_color(MUTED)
    counts.tick_params(labelsize=size.small, which="both", color=INK, labelcolor=INK)
    counts.tick_params(bottom=False, labelbottom=False)
    counts.set_ylabel("wordings", fontsize=size.small)
    counts.yaxis.set_label_position("right")
    counts.set_facecolor("none")

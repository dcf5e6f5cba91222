"""The evaluation as a figure: what changed against the base, how sure answers are, and the quadrants."""

from pathlib import Path
from typing import Any

import numpy as np

from finetune.display import label, overall
from finetune.evaluate import Evaluation
from finetune.quadrants import QUADRANTS, RELIANCE
from interp.figures import ACCENT, INK, MUTED, STYLE
from interp.files import whole_file

CHANGES = (
    "question_flip_rate",
    "pairwise_flip_rate",
    "accuracy",
    "balanced_accuracy",
    "calibration_error",
    "text_only_agreement",
    "swap_sensitivity",
)
"""The shares whose change is drawn; the tables have all."""
FEW = 10
"""Fewest wordings that a point of a reliability curve is drawn for."""
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
FILLS = ("#ffffff", "#d9d9d9", ACCENT, INK)
"""Of the quadrants, ideal to worst: told apart without colour too."""


def save_evaluation_figure(evaluation: Evaluation, path: Path) -> None:
    """Draw `evaluation_figure` into a PNG file, whole or not at all."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with whole_file(path) as partial, mpl.rc_context(STYLE):
        FigureCanvasAgg(evaluation_figure(evaluation)).print_png(partial)


def evaluation_figure(evaluation: Evaluation) -> Any:
    """Changes against the base with intervals; reliability curves; quadrants by both kinds of reliance."""
    from matplotlib.figure import Figure

    names = [evaluation.base, *evaluation.shown]
    figure = Figure(figsize=(10, 4.2 + 0.32 * len(names)), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=[3.4, 0.6 + 0.32 * len(names)])
    _changes(figure.add_subplot(grid[0, 0]), evaluation)
    _reliability(figure.add_subplot(grid[0, 1]), evaluation, names)
    for place, reliance in enumerate(RELIANCE):
        _quadrants(figure.add_subplot(grid[1, place]), evaluation, names, reliance)
    figure.suptitle(
        f"{evaluation.model}: {evaluation.questions} questions of {evaluation.patients} patients",
        x=0.01,
        ha="left",
        fontsize=11,
    )
    return figure


def _changes(axes: Any, evaluation: Evaluation) -> None:
    count = len(evaluation.shown)
    for k, (arm, mark) in enumerate(zip(evaluation.shown, MARKS * count, strict=False)):
        found = {c.measure: c.difference for c in overall(evaluation, arm)}
        drawn = [(i, found[name]) for i, name in enumerate(CHANGES) if name in found]
        value, low, high = 100 * np.array([estimate for _, estimate in drawn], float).reshape(-1, 3).T
        places = np.array([i for i, _ in drawn]) + 0.6 * ((k + 0.5) / count - 0.5)
        reach = np.nan_to_num(np.maximum(0, np.stack([value - low, high - value])))
        shade = str(0.55 * k / max(1, count - 1))
        axes.errorbar(value, places, xerr=reach, fmt=mark, color=shade, ms=4.5, lw=1.1, capsize=2, label=arm)
    axes.axvline(0, color=MUTED, lw=0.8)
    axes.set_yticks(range(len(CHANGES)), [label(name).removesuffix(" [%]") for name in CHANGES], fontsize=8)
    axes.set_ylim(len(CHANGES) - 0.5, -0.5)
    axes.set_xlabel("change against the base [points]")
    axes.set_title("What changed")
    axes.legend(fontsize=7)


def _reliability(axes: Any, evaluation: Evaluation, names: list[str]) -> None:
    axes.plot([0.5, 1], [0.5, 1], color=MUTED, lw=0.8)
    for k, (name, mark) in enumerate(zip(names, MARKS * len(names), strict=False)):
        # Of a pool, its first arm stands for all.
        arm = evaluation.pools.get(name, [name])[0]
        points = [point for point in evaluation.reliability if point.arm == arm and point.n >= FEW]
        shade = str(0.55 * k / max(1, len(names) - 1))
        axes.plot(
            [point.confidence for point in points],
            [point.accuracy for point in points],
            marker=mark,
            ms=3.5,
            lw=1,
            color=shade,
            label=arm,
        )
    axes.set_xlabel("confidence, sigmoid |m|")
    axes.set_ylabel(f"share answered rightly (bins of {FEW} or more)")
    axes.set_title("Reliability: on the line, as sure as right")
    axes.legend(fontsize=7)


def _quadrants(axes: Any, evaluation: Evaluation, names: list[str], reliance: str) -> None:
    for place, name in enumerate(names):
        members = evaluation.pools.get(name, [name])
        found = [q for q in evaluation.quadrants if q.arm in members and q.reliance == reliance]
        start = 0.0
        for quadrant, fill in zip(QUADRANTS, FILLS, strict=True):
            share = 100 * float(np.mean([q.shares[quadrant].value for q in found])) if found else 0.0
            first = quadrant if place == 0 else None
            axes.barh(place, share, left=start, color=fill, edgecolor=INK, lw=0.6, height=0.7, label=first)
            start += share
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    by = {"grey": "the grey blank", "any": "any blank or other image"}[reliance]
    axes.set_title(f"Quadrants [%] by {by}", fontsize=9)
    if reliance == RELIANCE[0]:
        axes.legend(fontsize=7, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.12))

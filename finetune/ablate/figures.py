"""An ablation as a figure: every arm's results side by side, readable in black and white."""

from pathlib import Path
from typing import Any

import numpy as np

from finetune.ablate.display import heading_of, scale_of
from finetune.ablate.outcomes import COMBINED
from finetune.ablate.result import Ablation
from interp.figures import ACCENT, INK, MUTED, STYLE
from interp.files import whole_file

DRAWN = ("question_flip_rate", "margin_difference", "accuracy", "first_token_accuracy", "text_only_agreement", COMBINED)
"""The metrics that are drawn; the tables have all."""
MARKS = {"chosen": "o", "window": "o", "third": "^", "random": "x", "all": "D", "all-matched": "D"}


def save_ablation_figure(found: Ablation, path: Path) -> None:
    """Draw `ablation_figure` into a PNG file, whole or not at all."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with whole_file(path) as partial, mpl.rc_context(STYLE):
        FigureCanvasAgg(ablation_figure(found)).print_png(partial)


def ablation_figure(found: Ablation) -> Any:
    """A panel a metric, an arm a row with its interval; the base is a line, the chosen range has a colour."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.4 * len(DRAWN) + 1.6, 1.4 + 0.24 * len(found.arms)), layout="constrained")
    for axes, metric in zip(figure.subplots(1, len(DRAWN), sharey=True), DRAWN, strict=True):
        _panel(axes, found, metric)
    axes = figure.axes[0]
    axes.set_yticks(range(len(found.arms)), [arm.name for arm in found.arms], fontsize=8)
    axes.set_ylim(len(found.arms) - 0.5, -0.5)
    data = found.data
    figure.suptitle(
        f"{found.model.id}: {data.questions} questions of {data.patients} patients; the line is the base",
        x=0.01,
        ha="left",
        fontsize=11,
    )
    return figure


def _panel(axes: Any, found: Ablation, metric: str) -> None:
    scale, _ = scale_of(metric)
    for place, arm in enumerate(found.arms):
        of = arm.metrics[metric]
        value, low, high = (np.nan if n is None else scale * n for n in (of.value, of.low, of.high))
        reach = np.nan_to_num(np.maximum(0, [[value - low], [high - value]]))
        style = {"color": ACCENT if arm.kind == "chosen" else INK, "marker": MARKS.get(arm.kind, "s"), "ms": 4.5}
        axes.errorbar([value], [place], xerr=reach, lw=1.1, capsize=2, **style)
    base = found.base[metric].value
    if base is not None:
        axes.axvline(scale * base, color=MUTED, lw=0.9)
    axes.set_title(heading_of(metric), fontsize=9)

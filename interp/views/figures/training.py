"""A training run: parts of the loss, norm of the gradient and learning rate by step."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from interp.views.figures.direct_labels import CurveEnd, name_curves
from interp.views.figures.style import INK, MUTED, SCREEN, SERIES, Size, new_figure, set_title, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOSSES = {"loss": "whole loss", "ce": "cross-entropy", "kl": "divergence", "grounding": "grounding"}
"""Column of history.csv -> the part of the loss in it [nats]."""
COLUMNS = ["step", "epoch", "lr", "grad_norm", "loss", "ce", "kl"]
"""Columns that history.csv must have."""
LINES = ("-", "--", ":", "-.")
SHARE = 30
"""Curves are running means over one SHARE-th of the steps."""


def training_curves(frame: pd.DataFrame, size: Size = SCREEN) -> "Figure":
    """Draw running means over the steps of a history (columns of history.csv), with lines between the epochs.

    The parts of the loss are shown before they are weighted; a part that is always zero is left out.
    """
    window = max(1, len(frame) // SHARE)
    step = frame["step"]
    ends = step[frame["epoch"].diff().fillna(0) > 0] - 0.5
    with styled(size):
        height = 4.0 if size.columns == 2 else 0.6 * size.width
        figure, axes = new_figure(size, height, rows=3, sharex=True, height_ratios=[2.2, 1, 1])
        parts, norm, rate = axes
        shown = [name for name in LOSSES if name in frame and (frame[name] != 0).any()]
        names = []
        for name, series, line in zip(shown, SERIES, LINES, strict=False):
            mean = frame[name].rolling(window, min_periods=1).mean()
            every = max(1, len(frame) // 10)
            parts.plot(step, mean.where(mean > 0), ls=line, markevery=every, label=LOSSES[name], **series)
            names.append(CurveEnd(float(mean.iloc[-1]), LOSSES[name], series["color"]))
        parts.set_yscale("log")
        name_curves(parts, names, size, 0.4 * height)
        parts.yaxis.set_major_formatter("{x:g}")
        parts.yaxis.set_minor_formatter("")
        parts.set_ylabel("loss [nats]")
        means = f", means over {window} steps" if window > 1 else ""
        set_title(figure, f"Training: {len(frame)} steps{means}", size)
        norm.plot(step, frame["grad_norm"], color=MUTED, lw=0.5)
        norm.plot(step, frame["grad_norm"].rolling(window, min_periods=1).mean(), color=INK)
        norm.set_ylim(bottom=0)
        norm.set_ylabel("gradient\nnorm")
        rate.plot(step, frame["lr"], color=INK)
        rate.set_ylim(bottom=0)
        rate.ticklabel_format(axis="y", scilimits=(-2, 3))
        rate.set_ylabel("learning\nrate")
        rate.set_xlabel("step")
        for ax in axes:
            for end in np.asarray(ends):
                ax.axvline(end, color=MUTED, ls=":", lw=0.7)
        figure.align_ylabels(axes)
    return figure

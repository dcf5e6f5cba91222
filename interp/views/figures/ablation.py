"""An ablation: the metrics of every arm side by side."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from interp.schemas.ablation import METRICS
from interp.views.figures.style import (
    ACCENT,
    INK,
    MUTED,
    SCREEN,
    Drawing,
    Size,
    intervals,
    lines_of,
    name_rows,
    panel_grid,
    set_title,
    styled,
)
from interp.views.labels import arrow, label, scale_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


MARKERS = {
    "chosen": "*",
    "window": "o",
    "feature-to-writer": "P",
    "writers": "v",
    "third": "^",
    "random": "x",
    "all": "D",
    "all-matched": "D",
}
"""Kind of arm -> its marker; the others have a square."""


def ablation_drawing(content: Mapping[str, Any]) -> Drawing:
    """The figure of an ablation, from the content of ablation.json."""
    frame, data = ablation_frame(content), content["data"]
    seeds = len(content["settings"].get("seeds", []))
    title = f"{data['questions']:,} questions of {data['patients']:,} patients"
    title += f", {seeds} seed{'s' if seeds > 1 else ''} an arm" if seeds else ""
    title += "; line and band: the base; arrow: better"
    return Drawing("ablation", frame, lambda size: ablation(frame, title, size))


def ablation_frame(content: Mapping[str, Any]) -> pd.DataFrame:
    """One row for each arm and metric: arm, kind ("base" for the base), metric, value, low, high; not in percent."""
    arms = [{"name": "base", "kind": "base", "metrics": content["base"]}, *content["arms"]]
    rows = [
        {"arm": arm["name"], "kind": arm["kind"], "metric": metric} | arm["metrics"][metric]
        for arm in arms
        for metric in METRICS
    ]
    columns = ["arm", "kind", "metric", "value", "low", "high"]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(columns[3:], float))


def ablation(frame: pd.DataFrame, title: str = "", size: Size = SCREEN) -> "Figure":
    """The figure of an `ablation_frame`: a panel for each metric, a row for each arm; line and band show the base."""
    arms = frame[frame["kind"] != "base"].drop_duplicates("arm")
    with styled(size):
        letters = 22 if size.columns == 2 else 32
        rows = len(arms) + (arms["arm"].str.len() > letters).sum()
        figure, axes = panel_grid(size, len(METRICS), 0.5 + rows * size.row, sharey=True)
        for ax, metric in zip(axes, METRICS, strict=True):
            at = dict(zip(arms["arm"], name_rows(ax, list(arms["arm"]), letters), strict=True))
            _draw_metric(ax, frame[frame["metric"] == metric], at, scale_of(metric).factor)
            ax.set_xlabel(lines_of(f"{label(metric)} {arrow(metric)}", size))
        set_title(figure, title, size)
    return figure


def _draw_metric(ax: "Axes", frame: pd.DataFrame, at: Mapping[str, float], scale: float) -> None:
    scaled = frame.assign(**{end: scale * frame[end] for end in ("value", "low", "high")})
    base = scaled[scaled["kind"] == "base"].iloc[0]
    if pd.notna(base["low"]):
        ax.axvspan(base["low"], base["high"], color=MUTED, alpha=0.25, lw=0)
    if pd.notna(base["value"]):
        ax.axvline(base["value"], color=MUTED, lw=0.9)
    for kind, arms in scaled[scaled["kind"] != "base"].groupby("kind", sort=False):
        style = {"color": ACCENT, "ms": 7} if kind == "chosen" else {"color": INK}
        intervals(
            ax,
            [at[name] for name in arms["arm"]],
            arms,
            across=True,
            ls="none",
            marker=MARKERS.get(str(kind), "s"),
            **style,
        )

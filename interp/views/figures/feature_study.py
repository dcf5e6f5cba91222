"""The figures of a feature study: recovery by dose and by group of flips, activation by level of the register grid."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from interp.views.figures.margin import delta_against_margin
from interp.views.figures.style import (
    ACCENT,
    INK,
    MUTED,
    QUANTITIES,
    SCREEN,
    SERIES,
    Drawing,
    Size,
    intervals,
    name_rows,
    panel,
    rounded,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_GROUPS = 16
"""Number of groups that are drawn, the largest ones; by_group.csv has all."""
CONTROLS = {"random": ("random directions", "x"), "matched": ("matched features", "s")}
CONTROLS["swapped"] = ("delta of another pair", "v")
"""Control -> its label and its marker."""
GROUP_COLUMNS = ["grouping", "group", "pairs", "patients", "shift", "recovery", "low", "high"]


def study_drawings(content: Mapping[str, Any], cells: pd.DataFrame, pairs: pd.DataFrame | None) -> list[Drawing]:
    """The figures of a study.

    `content` is the content of study.json, `cells` of grid.csv, and `pairs` of delta_margin.csv (None: not drawn).
    """
    named = f"Layer {content['layer']}, feature {content['feature']}"
    drawn = []
    if pairs is not None:
        drawn.append(Drawing("delta_margin", pairs, lambda size: delta_against_margin(pairs, size=size)))
    if content["test"] is not None:
        doses, groups, whole = dose_frame(content), group_frame(content), content["test"]["recovery"]["value"]
        drawn.append(Drawing("dose", doses, lambda size: recovery_by_dose(doses, named, size=size)))
        drawn.append(Drawing("by_group", groups, lambda size: recovery_by_group(groups, whole, named, size=size)))
    levels = level_frame(content, cells)
    drawn.append(Drawing("register_grid", levels, lambda size: activation_by_level(levels, named, size=size)))
    return drawn


def dose_frame(content: Mapping[str, Any]) -> pd.DataFrame:
    """One row for each patch: patch (feature or one of CONTROLS), dose [multiples of the patch], value, low, high."""
    test = content["test"]
    rows: list[dict[str, Any]] = []
    for dose, value in zip(content["doses"], test["dose"], strict=True):
        reach = {"low": test["recovery"]["low"], "high": test["recovery"]["high"]} if dose == 1 else {}
        rows.append({"patch": "feature", "dose": dose, "value": value} | reach)
    rows += [{"patch": name, "dose": 1.0, "value": test[name]} for name in CONTROLS]
    return pd.DataFrame(rows, columns=["patch", "dose", "value", "low", "high"])


def recovery_by_dose(frame: pd.DataFrame, named: str = "", ax: "Axes | None" = None, size: Size = SCREEN) -> "Figure":
    """The figure of a `dose_frame`, titled `named`; only dose 1 has an interval and controls."""
    height = 2.1 if size.columns == 2 else 0.4 * size.width
    with panel(ax, size, height, _titled(named, "recovery by dose")) as axes:
        axes.axhline(0, color=INK, lw=0.6)
        feature = frame[frame["patch"] == "feature"]
        intervals(axes, feature["dose"], feature, color=QUANTITIES["feature patch"], marker="o", label="the feature")
        for name, (label, marker) in CONTROLS.items():
            control = frame[frame["patch"] == name]
            # Hollow, so that equal controls can be seen on one another.
            axes.plot(control["dose"], control["value"], color=INK, marker=marker, mfc="none", ls="none", label=label)
        axes.set_xlim(0, 1.05 * feature["dose"].max())
        axes.set_xticks([0, *feature["dose"]], ["0", *(f"{dose:g}" for dose in feature["dose"])])
        axes.set_xlabel("multiple of the feature patch")
        axes.set_ylabel("recovered share\nof the margin shift")
    return axes.figure


def group_frame(content: Mapping[str, Any]) -> pd.DataFrame:
    """One row for each group: GROUP_COLUMNS, with the shift in logits and the interval of the recovery."""
    rows = [g | {"recovery": g["recovery"]["value"]} | _ends(g["recovery"]) for g in content["groups"]]
    return pd.DataFrame(rows, columns=GROUP_COLUMNS)


def recovery_by_group(
    frame: pd.DataFrame, whole: float | None, named: str = "", ax: "Axes | None" = None, size: Size = SCREEN
) -> "Figure":
    """The figure of a `group_frame`: the MOST_GROUPS largest groups, and a line at `whole`, the recovery of all."""
    shown = frame.loc[frame["pairs"].nlargest(MOST_GROUPS).index.sort_values()].rename(columns={"recovery": "value"})
    names = [f"{g.group.replace('_', ' ')} ({g.pairs})" for g in shown.itertuples()]
    height = 0.6 + len(names) * 1.5 * size.row
    with panel(ax, size, height, _titled(named, "recovery by group")) as axes:
        places = np.array(name_rows(axes, names, 30))
        axes.axvline(0, color=INK, lw=0.6)
        if whole is not None:
            axes.axvline(whole, color=MUTED, ls="--", lw=1, label="all flips")
        for style, grouping in zip(SERIES, dict.fromkeys(shown["grouping"]), strict=False):
            mine = (shown["grouping"] == grouping).to_numpy()
            intervals(axes, places[mine], shown[mine], across=True, ls="none", label=f"by {grouping}", **style)
        axes.set_xlabel("recovered share\nof the margin shift")
    return axes.figure


def level_frame(content: Mapping[str, Any], cells: pd.DataFrame) -> pd.DataFrame:
    """One row for each level and for each of its frames: level (0: most formal), frame (empty: all), value, low, high.

    Values are mean activations at the final token; `cells` is the content of grid.csv.
    """
    levels = [{"level": each["level"], "frame": ""} | each["mean"] for each in content["grid"]["levels"]]
    frames = rounded(cells).groupby(["level", "frame"], sort=False)["mean_activation"].mean().rename("value")
    return rounded(pd.concat([pd.DataFrame(levels).astype({"value": float}), frames.reset_index()], ignore_index=True))


def activation_by_level(
    frame: pd.DataFrame, named: str = "", ax: "Axes | None" = None, size: Size = SCREEN
) -> "Figure":
    """The figure of a `level_frame`: the mean of every level with its interval, and the mean of every frame."""
    height = 2.1 if size.columns == 2 else 0.4 * size.width
    with panel(ax, size, height, _titled(named, "register grid")) as axes:
        whole = frame["frame"].fillna("") == ""
        single, mean = frame[~whole], frame[whole]
        axes.plot(single["level"], single["value"], color=MUTED, marker="_", ms=9, ls="none", label="one frame")
        intervals(axes, mean["level"], mean, color=ACCENT, marker="o", label="mean of the level")
        levels = list(mean["level"])
        names = [f"{levels[0]}\nformal", *map(str, levels[1:-1]), f"{levels[-1]}\ncasual"]
        axes.set_xticks(levels, names)
        axes.axhline(0, color=INK, lw=0.6)
        axes.set_xlabel("level of the frame")
        axes.set_ylabel("activation\nat the final token")
    return axes.figure


def _ends(interval: Mapping[str, Any]) -> dict[str, Any]:
    return {"low": interval["low"], "high": interval["high"]}


def _titled(named: str, what: str) -> str:
    return f"{named}: {what}" if named else what.capitalize()

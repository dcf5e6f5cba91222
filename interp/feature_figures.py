"""A feature study on disk: study.json, its tables, and one figure sheet that is readable in black and white."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from interp.causal import DOSES
from interp.feature_study import FeatureStudy, GroupRecovery
from interp.figures import ACCENT, INK, MUTED, STYLE
from interp.files import json_ready, software, whole_folder, write_json
from interp.statistics import Estimate

SCHEMA_VERSION = 1
MOST_GROUPS = 16
"""Groups in the figure; by_group.csv has all."""


def save_study(study: FeatureStudy, out: Path) -> None:
    """Write study.json, by_group.csv, grid.csv and feature.png into the new folder `out`, all or none.

    No question text, path or patient is written; the grid's own frames and findings are. Undefined numbers are null in
    the JSON and empty in the tables. Raises InputError if `out` holds something.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with whole_folder(out) as folder:
        write_json(folder / "study.json", study_json(study))
        group_table(study).to_csv(folder / "by_group.csv", index=False, float_format="%.6g")
        study.grid.cells.to_csv(folder / "grid.csv", index=False, float_format="%.6g")
        with mpl.rc_context(STYLE):
            FigureCanvasAgg(feature_sheet(study)).print_png(folder / "feature.png")


def study_json(study: FeatureStudy) -> dict[str, Any]:
    """The study as plain values for JSON; undefined numbers are None."""
    plain = ("layer", "feature", "d_sae", "sae", "neuronpedia", "model", "revision", "fingerprint", "questions")
    more = ("patients", "firing_rate", "direct_effect", "margin_slope", "notes", "seed")
    content = {name: getattr(study, name) for name in plain + more}
    grid = {k: v for k, v in study.grid._asdict().items() if k != "cells"}
    parts = {
        "prompt": study.prompt._asdict(),
        "tracking": study.tracking,
        "test": study.test,
        "doses": DOSES,
        "groups": study.groups,
        "grid": grid,
        "neighbours": study.neighbours,
        "software": software(),
    }
    return json_ready({"schema_version": SCHEMA_VERSION} | content | parts)


def group_table(study: FeatureStudy) -> pd.DataFrame:
    """Recovery by group, one row a group: grouping, group, pairs, patients, shift [logits], recovery, low, high."""
    rows = [
        g._asdict() | {"recovery": g.recovery.value, "low": g.recovery.low, "high": g.recovery.high}
        for g in study.groups
    ]
    return pd.DataFrame(rows, columns=[*GroupRecovery._fields, "low", "high"])


def feature_sheet(study: FeatureStudy) -> Any:
    """One sheet of four: delta against margin shift, dose response, recovery by group, activation by grid level."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 8), layout="constrained")
    (a, b), (c, d) = figure.subplots(2, 2)
    _delta(a, study)
    _doses(b, study)
    _groups(c, study)
    _levels(d, study)
    figure.suptitle(f"Layer {study.layer}, feature {study.feature}, {study.model}", x=0.01, ha="left", fontsize=11)
    return figure


def _delta(axes: Any, study: FeatureStudy) -> None:
    flips = study.flips
    shift = flips.margin_after - flips.margin_before
    for rows, label, style in (
        (~flips.flipped, "answer stays", {"s": 6, "color": MUTED, "alpha": 0.5}),
        (flips.flipped, "answer flips", {"s": 16, "color": ACCENT, "marker": "^"}),
    ):
        axes.scatter(study.delta[rows], shift[rows], lw=0, label=f"{label} ({int(rows.sum())})", **style)
    axes.axhline(0, color=INK, lw=0.6)
    axes.axvline(0, color=INK, lw=0.6)
    axes.set_title(f"Delta and margin shift: r = {_number(study.tracking.r.value)}")
    axes.set_xlabel("activation, paraphrase - original")
    axes.set_ylabel("answer margin, paraphrase - original [logits]")
    axes.legend(fontsize=7)


def _doses(axes: Any, study: FeatureStudy) -> None:
    axes.set_title("Recovery by dose of the patch")
    axes.set_xlabel("multiple of the delta patch")
    axes.set_ylabel("recovered share of the margin shift")
    test = study.test
    if test is None:
        _empty(axes, "no banked flips")
        return
    axes.axhline(0, color=INK, lw=0.6)
    axes.plot(DOSES, test.dose, color=ACCENT, marker="o", ms=4, lw=1.2, label="the feature")
    _bars(axes, [1.0], [test.recovery], color=ACCENT)
    controls = {"random directions": (test.random, "x"), "matched features": (test.matched, "s")}
    controls["delta of another pair"] = (test.swapped, "v")
    for place, (label, (value, marker)) in zip((0.94, 1.0, 1.06), controls.items(), strict=True):
        # side by side, for the three controls of one dose are often equal
        said = f"{label}: {_number(value)}"
        axes.plot(place, value, color=INK, marker=marker, ms=6, mfc="none", ls="none", label=said)
    axes.set_xscale("log", base=2)
    axes.set_xticks(DOSES, [f"{dose:g}" for dose in DOSES])
    axes.minorticks_off()
    axes.legend(fontsize=7)


def _groups(axes: Any, study: FeatureStudy) -> None:
    axes.set_title("Recovery by group of banked flips")
    axes.set_xlabel("recovered share of the margin shift")
    if study.test is None:
        _empty(axes, "no banked flips")
        return
    largest = sorted(range(len(study.groups)), key=lambda i: -study.groups[i].pairs)[:MOST_GROUPS]
    shown = [study.groups[i] for i in sorted(largest)]
    groupings = list(dict.fromkeys(g.grouping for g in shown))
    # half a row between groupings
    places = np.array([i + groupings.index(g.grouping) / 2 for i, g in enumerate(shown)])
    axes.axvline(0, color=INK, lw=0.6)
    axes.axvline(study.test.recovery.value, color=MUTED, ls="--", lw=1, label=f"all {study.test.n}")
    for marker, grouping in zip("os^", groupings, strict=False):
        mine = [i for i, g in enumerate(shown) if g.grouping == grouping]
        intervals = [shown[i].recovery for i in mine]
        _bars(axes, places[mine], intervals, across=True, color=ACCENT)
        values = [interval.value for interval in intervals]
        axes.plot(values, places[mine], color=ACCENT, marker=marker, ms=5, ls="none", label=grouping)
    axes.set_yticks(places, [f"{g.group.replace('_', ' ')} ({g.pairs})" for g in shown], fontsize=7)
    axes.invert_yaxis()
    axes.legend(fontsize=7, ncol=4, loc="upper center", bbox_to_anchor=(0.4, -0.12))


def _levels(axes: Any, study: FeatureStudy) -> None:
    grid = study.grid
    frames = grid.cells.groupby(["level", "frame"], sort=False)["mean_activation"].mean().reset_index()
    axes.plot(frames["level"], frames["mean_activation"], color=MUTED, marker="_", ms=12, ls="none", label="one frame")
    levels = [level.level for level in grid.levels]
    means = [level.mean for level in grid.levels]
    axes.plot(levels, [m.value for m in means], color=ACCENT, marker="o", ms=4, lw=1.2, label="mean")
    _bars(axes, levels, means, color=ACCENT)
    axes.set_xticks(levels, _level_names(levels))
    axes.set_ylim(bottom=0)
    axes.set_title(f"Register grid: AUC {_number(grid.auc.value)}, rank correlation {_number(grid.spearman.value)}")
    axes.set_xlabel("level of the frame")
    axes.set_ylabel("activation at the final token")
    axes.legend(fontsize=7)


def _level_names(levels: list[int]) -> list[str]:
    names = [str(level) for level in levels]
    return [f"{names[0]}\nmost formal", *names[1:-1], f"{names[-1]}\nmost casual"]


def _bars(axes: Any, places: Any, intervals: list[Estimate], across: bool = False, **style: Any) -> None:
    """Error bars of those estimates that have an interval."""
    value, low, high = np.array(intervals, float).T
    reach = np.nan_to_num(np.maximum(0, np.stack([value - low, high - value])))
    if across:
        axes.errorbar(value, places, xerr=reach, fmt="none", capsize=2, lw=1.2, **style)
    else:
        axes.errorbar(places, value, yerr=reach, fmt="none", capsize=2, lw=1.2, **style)


def _empty(axes: Any, why: str) -> None:
    axes.text(0.5, 0.5, why, ha="center", va="center", color=MUTED, transform=axes.transAxes)
    axes.set_xticks([])
    axes.set_yticks([])


def _number(value: float) -> str:
    # the sum takes the sign off a rounded zero
    return "-" if math.isnan(value) else f"{round(value, 2) + 0.0:.2f}"

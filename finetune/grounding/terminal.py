"""A grounding study as a table for the eye."""

import math
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from finetune.grounding.score_table import SCORES
from finetune.grounding.study import GroundingStudy
from interp.runtime.console import results_console
from interp.statistics import Estimate

WIDTH = 180
"""Of the table where there is no terminal."""


def show_grounding(found: GroundingStudy, out: Path | None = None, console: Console | None = None) -> None:
    """Print the study; `out` is where it was written."""
    console = console or results_console(WIDTH)
    console.print(grounding_table(found))
    if out is not None:
        console.print(f"Wrote {out}", highlight=False, markup=False, soft_wrap=True)


def grounding_table(found: GroundingStudy) -> Table:
    """Every score of every map against every control: value, control and net of each arm, and adapter - base."""
    right = ", ".join(f"{arm} {share:.1%}" for arm, share in found.right.items() if not math.isnan(share))
    title = f"{found.model}: {found.questions} questions of {found.patients} patients; answered truly: {right or '-'}"
    if found.feature:
        title += f"; feature {found.feature}"
    table = Table(
        title=title,
        title_justify="left",
        caption="net: score - control. 95% intervals: bootstrap over patients; p: two-sided, signs "
        f"flipped by patient, not adjusted. Removed parts are filled with: {found.settings.maps.fill}",
    )
    for heading in ("score", "against", "map"):
        table.add_column(heading, overflow="fold")
    # Of two arms it is the difference that is tested here; the p of each arm's own net is in the JSON.
    tested = ["adapter - base"] if len(found.arms) > 1 else []
    for heading in ("n", *(h for arm in found.arms for h in (arm, "control", "net")), *tested, "p"):
        table.add_column(heading, justify="right", overflow="fold")
    for score in SCORES:
        for against in dict.fromkeys(entry.against for entry in found.summary if entry.score == score):
            _section(table, found, score, against)
    return table


def _section(table: Table, found: GroundingStudy, score: str, against: str) -> None:
    entries = [entry for entry in found.summary if (entry.score, entry.against) == (score, against)]
    changes = {c.map: c for c in found.differences if (c.score, c.against) == (score, against)}
    table.add_section()
    for k, name in enumerate(dict.fromkeys(entry.map for entry in entries)):
        of_arm = {entry.arm: entry for entry in entries if entry.map == name}
        cells = [score.replace("_", " "), against] if k == 0 else ["", ""]
        cells += [name, str(max(entry.n for entry in of_arm.values()))]
        for arm in found.arms:
            entry = of_arm.get(arm)
            if entry is None:
                cells += ["-"] * 3
            else:
                cells += [_number(entry.value.value), _number(entry.control.value), _interval(entry.net, "+")]
        change = changes.get(name)
        if len(found.arms) == 1:
            cells.append(_p(of_arm[found.arms[0]].p))
        else:
            cells += [_interval(change.difference, "+"), _p(change.p)] if change else ["-", "-"]
        table.add_row(*map(escape, cells))


def _interval(estimate: Estimate, sign: str = "") -> str:
    value = _number(estimate.value, sign)
    if math.isnan(estimate.low):
        return value
    return f"{value} [{_number(estimate.low, sign)}, {_number(estimate.high, sign)}]"


def _number(value: float, sign: str = "") -> str:
    # the sum takes the sign off a rounded zero
    return "-" if math.isnan(value) else f"{round(value, 2) + 0.0:{sign}.2f}"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "<.001"

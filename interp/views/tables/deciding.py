"""The few rows by which a verdict was decided: what a command prints unless --full asks for every table."""

from collections.abc import Callable
from typing import NamedTuple

from interp.schemas.evaluation import Axis, Comparison, Evaluation
from interp.schemas.layers import Layers
from interp.views.labels import label, scale_of
from interp.views.overview import Overview
from interp.views.table import Cell, Column, Table, estimate, p_cell, tabulate, words
from interp.views.tables.claims import claims_table
from interp.views.tables.evaluation import BRIEF_RELIANCE, evaluation_overview, quadrants_table
from interp.views.tables.measured import DECIDING, measured_table
from interp.views.tables.ranges import is_tested

AXES = {"consistency": "consistent", "accuracy": "accurate", "looking": "looks at the image"}
"""Axis of a verdict -> what it asks of an arm."""


def search_deciding(found: Layers) -> Table:
    """The claims of a search's verdict beside their controls, each in one cell of text; no row if too few flips."""
    whole = claims_table(found)
    claim, measured, control, *_ = whole.columns
    rows = [
        [Cell(f"{row[0].text}, {row[0].note}" if row[0].note else row[0].text), row[1], row[2]]
        for row in whole.rows
        if found.verdict != "too few flips"
    ]
    others = "answers that differ because the image does" if is_tested(found) else "shuffled flips"
    note = f"Control: the same with random directions; in the first row, {others}. Brackets: 95% intervals."
    return Table("What decided, on held-out patients", [claim, measured, control], rows, note)


def evaluation_brief(found: Evaluation) -> Overview:
    """The evaluation as a notebook shows it: the verdict, the rows that decided it, and the quadrants."""
    full = evaluation_overview(found)
    deciding = evaluation_deciding(found) if found.shown else measured_table(found, DECIDING)
    tables = [table for table in (deciding, quadrants_table(found, BRIEF_RELIANCE)) if table.rows]
    return Overview(full.heading, full.conclusion, tables=tables, notes=full.notes)


class _Row(NamedTuple):
    """One axis of the verdict on one arm."""

    arm: str
    axis: Axis
    compared: Comparison


def evaluation_deciding(found: Evaluation) -> Table:
    """The measures that decided the verdict on each arm, against the base."""
    at = found.against_base()
    rows = [
        _Row(arm, axis, compared)
        for arm in found.shown
        for axis in found.verdicts[arm].axes
        if (compared := at.get((arm, axis.measure, "all", "all"))) is not None
    ]

    def number(part: str, sign: bool = False) -> Callable[[_Row], Cell]:
        return lambda row: estimate(getattr(row.compared, part), scale_of(row.axis.measure), sign)

    columns = [
        words("asked", lambda row: f"{AXES.get(row.axis.axis, row.axis.axis)}: {label(row.axis.measure)}"),
        Column(found.base, number("before")),
        Column("arm" if len(found.shown) > 1 else "".join(found.shown), number("after")),
        Column("change", number("difference", sign=True)),
        Column("p", lambda row: p_cell(row.compared.p)),
        words("", lambda row: row.axis.state),
    ]
    if len(found.shown) > 1:
        columns.insert(0, words("arm", lambda row: row.arm))
    return tabulate(
        "What decided",
        columns,
        rows,
        "p: paired, two-sided. Brackets: 95% intervals over patients.",
    )

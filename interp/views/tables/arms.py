"""Every arm of every evaluation of a run in one row, with the measures that decided its verdict."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from interp.schemas.evaluation import Comparison, Evaluation
from interp.views.labels import arrow, label, scale_of
from interp.views.numbers import interval, number
from interp.views.table import Cell, Column, Table, blank, tabulate, words


class _Row(NamedTuple):
    """One arm of one evaluation."""

    source: str
    arm: str
    evaluation: Evaluation

    def of(self, measure: str) -> Comparison | None:
        """The measure against the base, over all questions."""
        return self.evaluation.against_base().get((self.arm, measure, "all", "all"))

    @property
    def states(self) -> dict[str, str]:
        """Measure that decided -> better, kept, lost or unclear."""
        return {axis.measure: axis.state for axis in self.evaluation.verdicts[self.arm].axes}


def source_of(folder: str, found: Evaluation) -> str:
    """Where an evaluation is from and what it asked, which tells two evaluations of one adapter apart."""
    file = f"{folder}/evaluation.json" if folder else "evaluation.json"
    return f"{file}, {found.questions:,} questions of {found.patients:,} patients"


def arms_table(evaluations: Sequence[tuple[str, Evaluation]], most: int | None = None) -> Table:
    """A row for each arm that is compared with its base, from (folder, evaluation); with `most`, the first so many."""
    rows = [_Row(source_of(folder, found), arm, found) for folder, found in evaluations for arm in found.shown]
    measures = list(dict.fromkeys(measure for row in rows for measure in row.states))

    def change(measure: str) -> Callable[[_Row], Cell]:
        def cell(row: _Row) -> Cell:
            compared = row.of(measure)
            if compared is None or measure not in row.states:
                return blank()
            scale = scale_of(measure)
            ends = f"{number(compared.before.value, scale)} → {number(compared.after.value, scale)}"
            changed = interval(compared.difference, scale, sign=True)
            return Cell(ends, compared.difference.value, f"{changed} {row.states[measure]}")

        return cell

    shown = rows[:most]
    return tabulate(
        "Adapters and clamps, base → arm",
        [
            words("arm", lambda row: row.arm, lambda row: row.source),
            words("verdict", lambda row: row.evaluation.verdicts[row.arm].label),
            *(Column(f"{label(measure)} {arrow(measure)}", change(measure)) for measure in measures),
        ],
        shown,
        "Arrows: the better direction. Below: the change with its 95% interval over patients, and what it says."
        + (f" {len(rows) - len(shown)} more are in the sections below." if len(rows) > len(shown) else ""),
    )

"""A table as data: built once from an artifact, then drawn on the terminal, in the report and in notebooks.

A column says how its cell is made from one entry of the artifact, so that a new column is one new line. The renderers
are `interp.views.terminal.show` (rich), `interp.views.notebook` (HTML) and `interp/views/report/macros.html.j2` (HTML).
"""

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from interp.schemas.record import Interval
from interp.views.numbers import NONE, UNSCALED, Scale, interval, number, p_value, sentence


@dataclass(frozen=True)
class Cell:
    """One cell."""

    text: str
    """The text as shown, not yet escaped."""
    order: float | None = None
    """The value that the column is sorted by; None for text and for undefined numbers."""
    note: str = ""
    """An explanation below the text, in smaller type; only the report shows it."""


@dataclass(frozen=True)
class Column:
    """One column."""

    heading: str
    """The heading as shown."""
    cell: Callable[[Any], Cell]
    """Makes the column's cell from one entry of the artifact."""
    numeric: bool = True
    """Whether the cells hold numbers, which are aligned right and sorted by size."""
    narrow: bool = True
    """Whether narrow places, the terminal and notebooks, show the column; the report shows every column."""
    meaning: str = ""
    """What the column holds, where its heading does not say it; shown below the table."""


@dataclass(frozen=True)
class Table:
    """One table; the first cell of each row is the row's heading."""

    caption: str
    """What the table shows."""
    columns: list[Column]
    """The columns, left to right."""
    rows: list[list[Cell]]
    """The cells [rows][columns]."""
    note: str = ""
    """How to read the table as a whole."""
    marked: frozenset[int] = frozenset()
    """Indices of the rows that stand out."""
    marker: str = ""
    """What the mark of a row means, for readers who do not see it."""

    @property
    def explanation(self) -> str:
        """The text below the table: the meaning of each column that has one, then the note."""
        meanings = {column.heading: column.meaning for column in self.columns if column.meaning}
        # A single letter, as p, is a symbol and stays as it is.
        said = [
            f"{sentence(heading)[:-1] if len(heading) > 1 else heading}: {meaning}."
            for heading, meaning in meanings.items()
        ]
        return " ".join([*said, *([self.note] if self.note else [])])

    def narrow(self) -> "Table":
        """The same table with only the columns that fit narrow places."""
        return self._only([place for place, column in enumerate(self.columns) if column.narrow])

    def known(self) -> "Table":
        """The same table without columns that are empty in every row, as those of fields that older files lack."""
        filled = [place for place in range(len(self.columns)) if any(row[place].text != NONE for row in self.rows)]
        return self._only(filled) if self.rows else self

    def _only(self, kept: Sequence[int]) -> "Table":
        rows = [[row[place] for place in kept] for row in self.rows]
        return replace(self, columns=[self.columns[place] for place in kept], rows=rows)


def tabulate(
    caption: str,
    columns: list[Column],
    entries: Iterable[Any],
    note: str = "",
    marked: Collection[int] = (),
    marker: str = "",
) -> Table:
    """A table with one row for each entry."""
    rows = [[column.cell(entry) for column in columns] for entry in entries]
    return Table(caption, columns, rows, note, frozenset(marked), marker)


def words(heading: str, text: Callable[[Any], str], note: Callable[[Any], str] = lambda _: "") -> Column:
    """A column of text, with an optional note below each cell."""
    return Column(heading, lambda entry: Cell(text(entry), note=note(entry)), numeric=False)


def blank() -> Cell:
    """The cell of a number that does not exist."""
    return Cell(NONE)


def count(found: int | None) -> Cell:
    """A cell with a whole number."""
    return blank() if found is None else Cell(f"{found:,}", found)


def value(found: float | None, scale: Scale = UNSCALED, sign: bool = False) -> Cell:
    """A cell with a number."""
    return Cell(number(found, scale, sign), _order(found))


def estimate(found: Interval | None, scale: Scale = UNSCALED, sign: bool = False) -> Cell:
    """A cell with a number and its 95% interval."""
    return blank() if found is None else Cell(interval(found, scale, sign), _order(found.value))


def p_cell(found: float | None) -> Cell:
    """A cell with a p value."""
    return Cell(p_value(found), _order(found))


def _order(found: float | None) -> float | None:
    return None if found is None or not math.isfinite(found) else found

"""Tables as data: what the template needs to print one and what a script needs to sort it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from interp.schemas.layers import Interval
from interp.views.numbers import PLAIN, Scale, interval, number, p_value


@dataclass(frozen=True)
class Cell:
    """One cell."""

    text: str
    """As it is printed; escaped by the template."""
    order: float | None = None
    """What it sorts by; None for text, and for what is undefined."""
    note: str = ""
    """Said below the text, smaller."""


@dataclass(frozen=True)
class Column:
    """One column."""

    heading: str
    """As it is printed."""
    numeric: bool = True
    """Whether its cells are numbers, printed to the right and sorted by size."""


@dataclass(frozen=True)
class Table:
    """One table; the first cell of a row is its heading."""

    caption: str
    """What it shows."""
    columns: list[Column]
    """One entry a column."""
    rows: list[list[Cell]]
    """[rows][columns]."""
    note: str = ""
    """How it is read, below it."""
    marked: frozenset[int] = field(default_factory=frozenset)
    """Rows that stand out."""
    marker: str = ""
    """What is said of a marked row, for readers who do not see the mark."""


def columns(text: Sequence[str], numeric: Sequence[str] = ()) -> list[Column]:
    """Columns of text, then columns of numbers."""
    return [*(Column(name, False) for name in text), *(Column(name) for name in numeric)]


def text(value: str, note: str = "") -> Cell:
    """A cell of text."""
    return Cell(value, note=note)


def count(value: int | None) -> Cell:
    """A cell with a whole number."""
    return Cell("–" if value is None else f"{value:,}", value)


def value(found: float | None, scale: Scale = PLAIN, sign: bool = False) -> Cell:
    """A cell with a number."""
    return Cell(number(found, scale, sign), _order(found))


def estimate(found: Interval | None, scale: Scale = PLAIN, sign: bool = False) -> Cell:
    """A cell with a number and its interval."""
    return Cell("–") if found is None else Cell(interval(found, scale, sign), _order(found.value))


def p(found: float | None) -> Cell:
    """A cell with a p value."""
    return Cell(p_value(found), _order(found))


def _order(found: float | None) -> float | None:
    return None if found is None or not math.isfinite(found) else found

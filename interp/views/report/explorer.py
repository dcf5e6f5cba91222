"""Tables that a reader filters, sorts and searches on the page: their content as JSON, of bounded size.

The script of the page (explorer.js) draws fifty rows at a time. Without it, the first rows are there as a plain table.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
from markupsafe import Markup

from interp.views.numbers import NONE, Scale
from interp.views.table import Cell, Column, Table, p_cell
from interp.views.table import value as number_cell

Kind = Literal["text", "choice", "number", "p", "link"]
SHORT = 20
"""Rows that are on the page without the script."""
P_DIGITS = 6
"""Decimals of p values, by which they are ordered; three are shown."""
LONG = 30
"""Letters above which a column of texts is kept wide enough to read."""
LONGEST = 300
"""Most letters of a text; longer ones end with an ellipsis, so that the page stays small."""


@dataclass(frozen=True)
class Field:
    """One column of an explorer."""

    name: str
    """Column of the frame."""
    heading: str
    """The heading as shown."""
    kind: Kind = "text"
    """choice: few different texts, which can be filtered by; p: a p value; link: a text with its address, or None."""
    meaning: str = ""
    """What the column holds, where its heading does not say it."""
    shown: bool = True
    """Whether the column is shown before the reader asks for all."""
    digits: int = 2
    """Decimals of its numbers."""
    factor: float = 1
    """What its numbers are multiplied by: 100 for percent."""

    @property
    def numeric(self) -> bool:
        """Whether the column holds numbers."""
        return self.kind in ("number", "p")


@dataclass(frozen=True)
class Explorer:
    """A table to explore."""

    name: str
    """Its id on the page."""
    caption: str
    """What the rows are, and how many there are and are shown."""
    fields: list[Field]
    """The columns, left to right."""
    frame: pd.DataFrame
    """The rows, at least the columns of `fields`."""
    note: str = ""
    """How to read the table."""
    hints: list[str] = field(default_factory=list)
    """Questions that the table answers, with what to choose."""

    @property
    def explanation(self) -> str:
        """The meanings of the columns and the note."""
        return Table("", [_column(f) for f in self.fields], [], self.note).explanation

    @property
    def first_rows(self) -> Table:
        """The first SHORT rows as a table."""
        rows = [[_cell(f, value) for f, value in zip(self.fields, row, strict=True)] for row in self._rows(SHORT)]
        return Table(self.caption, [_column(f) for f in self.fields], rows)

    def _rows(self, most: int) -> list[tuple[Any, ...]]:
        columns = [self.frame[f.name].head(most).tolist() for f in self.fields]
        return list(zip(*columns, strict=True))

    @property
    def json(self) -> Markup:
        """Headings and columns for the script, in a form that nothing in it can end."""
        content = {
            "fields": [
                {"heading": f.heading, "kind": f.kind, "shown": f.shown, "digits": f.digits} for f in self.fields
            ],
            "columns": [_packed(f, self.frame[f.name]) for f in self.fields],
            "rows": len(self.frame),
        }
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        # A data block ends at the first </script, and <!-- begins a comment in it.
        return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def bounded(frame: pd.DataFrame, most: int) -> pd.DataFrame:
    """The first `most` rows of a frame, with texts of at most LONGEST letters."""
    return frame.head(most).reset_index(drop=True)


def short_text(text: Any) -> str | None:
    """A text of at most LONGEST letters; None for a missing one."""
    if text is None or pd.isna(text):
        return None
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def yes_no(values: Any, yes: str = "yes", no: str = "no") -> list[str | None]:
    """Truth values as texts; None where they are missing."""
    return [None if pd.isna(value) else yes if value else no for value in values]


def _packed(one: Field, values: "pd.Series[Any]") -> dict[str, Any]:
    """A column: numbers, or the different texts and which of them each row has."""
    if one.numeric:
        numbers = one.factor * pd.to_numeric(values).astype(float).to_numpy(float, na_value=np.nan)
        digits = P_DIGITS if one.kind == "p" else one.digits
        return {"numbers": [round(x, digits) + 0.0 if np.isfinite(x) else None for x in numbers.tolist()]}
    if one.kind == "link":
        return {"links": [None if value is None else list(value) for value in values]}
    codes, texts = pd.factorize(values.astype(object), use_na_sentinel=True)
    shown = [short_text(str(text)) for text in texts]
    long = any(len(text or "") > LONG for text in shown)
    return {"texts": shown, "codes": codes.tolist()} | ({"long": True} if long else {})


def _column(one: Field) -> Column:
    return Column(one.heading, lambda row: Cell(""), numeric=one.numeric, narrow=one.shown, meaning=one.meaning)


def _cell(one: Field, value: Any) -> Cell:
    if one.kind == "link":
        return Cell(NONE if value is None else value[0])
    if value is None or pd.isna(value):
        return Cell(NONE)
    if one.kind == "p":
        return p_cell(float(value))
    if one.kind == "number":
        return number_cell(float(value), Scale(one.factor, one.digits))
    return Cell(short_text(str(value)) or NONE)


def shares_of(room: int, sizes: Sequence[int]) -> list[int]:
    """How many rows of each table are shown if there is room for `room` in all: small ones whole, the rest alike."""
    shown = [0] * len(sizes)
    left = room
    for done, place in enumerate(sorted(range(len(sizes)), key=lambda i: sizes[i])):
        shown[place] = min(sizes[place], left // (len(sizes) - done))
        left -= shown[place]
    return shown

"""Results in Jupyter: their tables as on the terminal, but as HTML, and their figures below the cell."""

from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING

import pandas as pd
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SMALL = "font-size:90%;opacity:.8;white-space:pre-line"
"""Style of what explains a table."""


def page_html(verdict: str, lines: Sequence[str], tables: Sequence[Table], notes: Sequence[str] = ()) -> str:
    """A result as HTML: its verdict, a paragraph a line, its tables, and what limits it; all text is escaped."""
    said = [f"<p><b>{_escaped(verdict)}</b></p>", *(f"<p>{_escaped(line)}</p>" for line in lines)]
    limits = [f"<p><i>{_escaped(note)}</i></p>" for note in notes]
    return "\n".join(["<div>", *said, *map(table_html, tables), *limits, "</div>"])


def table_html(table: Table) -> str:
    """A table of the terminal as HTML, its markup read, its text escaped; bold rows stay bold."""
    cells = [[_plain(cell) for cell in column.cells] for column in table.columns]
    sides = [column.justify if column.justify != "default" else "left" for column in table.columns]
    heads = "".join(
        f'<th style="text-align:{side}">{_plain(column.header)}</th>'
        for column, side in zip(table.columns, sides, strict=True)
    )
    rows = []
    for row, texts in zip(table.rows, zip(*cells, strict=True), strict=True):
        style = ' style="font-weight:bold"' if str(row.style or "") == "bold" else ""
        inside = "".join(
            f'<td style="text-align:{side};white-space:nowrap">{text}</td>'
            for text, side in zip(texts, sides, strict=True)
        )
        rows.append(f"<tr{style}>{inside}</tr>")
    title = f"<p><b>{_plain(table.title)}</b></p>" if table.title else ""
    below = f'<p style="{SMALL}">{_plain(table.caption)}</p>' if table.caption else ""
    body = "\n".join(rows)
    return f"{title}<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>{below}"


def _plain(cell: object) -> str:
    text = cell if isinstance(cell, Text) else Text.from_markup(str(cell))
    return _escaped(text.plain)


def _escaped(text: str) -> str:
    return escape(text).replace("\n", "<br>")


def shown(figure: "Figure") -> "list[Axes]":
    """Hand a figure to pyplot, which shows it below its cell or in a window; returns its axes."""
    from matplotlib import pyplot

    pyplot.figure(figure)
    return figure.axes


def plotted(draw: "Callable[..., Figure]", frame: pd.DataFrame, ax: "Axes | None") -> "Axes":
    """`draw`(frame, ax=ax) into the axes given, which need no pyplot, or into those of a new figure, which is shown."""
    figure = draw(frame, ax=ax)
    return ax if ax is not None else shown(figure)[0]

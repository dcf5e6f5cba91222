"""Results in Jupyter: their tables as HTML, and their figures below the cell."""

from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING

import pandas as pd

from interp.views.overview import Overview
from interp.views.table import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SMALL = "font-size:90%;opacity:.8;white-space:pre-line"
"""Style of the text below a table."""


def overview_html(shown: Overview) -> str:
    """A result as HTML: its conclusion first, then its heading, numbers, tables and limits; all text is escaped."""
    conclusion = [f"<p><b>{_escaped(sentence)}</b></p>" for sentence in shown.conclusion]
    facts = [f"<p>{_escaped(f'{name}: {fact}')}</p>" for name, fact in shown.facts]
    notes = [f"<p><i>{_escaped(note)}</i></p>" for note in shown.notes]
    heading = f"<p>{_escaped(shown.heading)}</p>"
    return "\n".join(["<div>", *conclusion, heading, *facts, *map(table_html, shown.tables), *notes, "</div>"])


class Details:
    """Every table of a result, as a notebook shows it."""

    def __init__(self, shown: Overview) -> None:
        self._shown = shown

    def _repr_html_(self) -> str:
        return overview_html(self._shown)

    def __repr__(self) -> str:
        return f"<Details: {self._shown.heading}>"


def table_html(table: Table) -> str:
    """The narrow columns of a table as HTML, with marked rows in bold; all text is escaped."""
    shown = table.narrow()
    sides = ["right" if column.numeric else "left" for column in shown.columns]
    heads = "".join(
        f'<th style="text-align:{side}">{_escaped(column.heading)}</th>'
        for column, side in zip(shown.columns, sides, strict=True)
    )
    rows = []
    for place, row in enumerate(shown.rows):
        style = ' style="font-weight:bold"' if place in shown.marked else ""
        inside = "".join(
            f'<td style="text-align:{side};white-space:nowrap">{_escaped(cell.text)}</td>'
            for cell, side in zip(row, sides, strict=True)
        )
        rows.append(f"<tr{style}>{inside}</tr>")
    below = f'<p style="{SMALL}">{_escaped(shown.explanation)}</p>' if shown.explanation else ""
    body = "\n".join(rows)
    return (
        f"<p><b>{_escaped(shown.caption)}</b></p><table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody>\n"
        f"</table>{below}"
    )


def _escaped(text: str) -> str:
    return escape(text).replace("\n", "<br>")


def shown(figure: "Figure") -> "list[Axes]":
    """Hand a figure to pyplot, which shows it below its cell or in a window, and return its axes."""
    from matplotlib import pyplot

    pyplot.figure(figure)
    return figure.axes


def plotted(draw: "Callable[..., Figure]", frame: pd.DataFrame, ax: "Axes | None") -> "Axes":
    """Call `draw(frame, ax=ax)` and return the axes that were drawn into.

    Axes that are given need no pyplot; without any, a new figure is made and shown.
    """
    figure = draw(frame, ax=ax)
    return ax if ax is not None else shown(figure)[0]

"""Drawing tables and results on the terminal with rich."""

import re
import textwrap
from typing import TYPE_CHECKING

from interp.runtime.console import results_console
from interp.views.overview import Overview
from interp.views.table import Cell, Column, Table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

NARROWEST_HEADING = 4
"""Fewest letters [columns] in a line of a heading."""
LONGEST_WORD = 10
"""Most letters [columns] of a word that a narrow terminal does not break."""
WIDEST = 400
"""Most columns of a table that is not printed on a terminal."""
_LEADING_ZERO = re.compile(r"(?<![\d.])0(?=\.\d)")


def show_overview(shown: Overview, console: "Console | None" = None) -> None:
    """Print a result, its conclusion last.

    Tables that do not go to a terminal break their texts between words, and no number, and are as wide as that needs.
    """
    from rich.markup import escape

    given, console = console, console or results_console()
    piped = given is None and not console.is_terminal
    drawn = [rich_table(table, whole=piped) for table in shown.tables]
    console.print(f"\n{bold(shown.heading)}", soft_wrap=True)
    for name, fact in shown.facts:
        console.print(f"{name}: {fact}", soft_wrap=True, markup=False)
    for table, body in zip(shown.tables, drawn, strict=True):
        console.print(f"\n{bold(table.caption)}", soft_wrap=True)
        # Nothing is cut off: what is wider than the terminal goes on in its next line.
        least = console.measure(body, options=console.options.update(max_width=WIDEST)).minimum
        if least > console.width:
            body.width = least
        console.print(body, crop=False)
        if explanation := table.narrow().explanation:
            console.print(explanation, style="dim", markup=False)
    for note in shown.notes:
        console.print(f"[yellow]note[/yellow]: {escape(note)}", soft_wrap=True)
    for sentence in shown.conclusion:
        console.print(bold(sentence), soft_wrap=True)


def rich_table(table: Table, whole: bool = False) -> "RichTable":
    """The narrow columns of a table for the terminal, without caption and explanation; marked rows are bold.

    Numbers lose the zero before the decimal point, and headings break into lines as wide as their column, because many
    terminals have 80 columns. An interval that still does not fit stands below its estimate, and long words break,
    unless cells are to be `whole`.
    """
    from rich import box
    from rich.markup import escape
    from rich.table import Table as RichTable

    shown = table.narrow()
    rows = [[_text(*each) for each in zip(shown.columns, row, strict=True)] for row in shown.rows]
    drawn = RichTable(box=box.SIMPLE_HEAD, show_edge=False, padding=0, collapse_padding=True)
    for place, column in enumerate(shown.columns):
        texts = [row[place] for row in rows]
        widest = max([NARROWEST_HEADING, *(len(row[place].text) for row in shown.rows)])
        lines = textwrap.wrap(column.heading, widest, break_long_words=False)
        words = [] if column.numeric else " ".join(texts).split(" ")
        unbroken = max(map(len, texts if column.numeric and whole else words), default=1)
        drawn.add_column(
            escape("\n".join(lines)),
            justify="right" if column.numeric else "left",
            overflow="fold",
            min_width=unbroken if whole else min(unbroken, LONGEST_WORD),
            no_wrap=column.numeric and whole,
        )
    for place, row in enumerate(rows):
        drawn.add_row(*map(escape, row), style="bold" if place in shown.marked else "")
    return drawn


def _text(column: Column, cell: Cell) -> str:
    return _LEADING_ZERO.sub("", cell.text) if column.numeric else cell.text


def bold(name: object) -> str:
    """Text that may hold brackets, as rich markup that shows it in bold."""
    from rich.markup import escape

    return f"[bold]{escape(str(name))}[/bold]"

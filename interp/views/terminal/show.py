"""Drawing tables and results on the terminal with rich."""

import re
import textwrap
from typing import TYPE_CHECKING

from interp.runtime.console import results_console
from interp.views.overview import Overview
from interp.views.table import Table

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
    """Print a result, its conclusion last. Output that does not go to a terminal is as wide as its tables need."""
    from rich.markup import escape

    drawn = [rich_table(table) for table in shown.tables]
    if console is None:
        console = results_console()
        if not console.is_terminal:
            options = console.options.update(max_width=WIDEST)
            console.width = max([console.width, *(console.measure(each, options=options).maximum for each in drawn)])
    console.print(f"\n{bold(shown.heading)}", soft_wrap=True)
    for name, fact in shown.facts:
        console.print(f"{name}: {fact}", soft_wrap=True, markup=False)
    for table, body in zip(shown.tables, drawn, strict=True):
        console.print(f"\n{bold(table.caption)}", soft_wrap=True)
        # Nothing is cut off: what is wider than the terminal goes on in its next line.
        least = console.measure(body, options=console.options.update(max_width=WIDEST)).minimum
        console.print(body, width=max(console.width, least), crop=False)
        if explanation := table.narrow().explanation:
            console.print(explanation, style="dim", markup=False)
    for note in shown.notes:
        console.print(f"[yellow]note[/yellow]: {escape(note)}", soft_wrap=True)
    for sentence in shown.conclusion:
        console.print(bold(sentence), soft_wrap=True)


def rich_table(table: Table) -> "RichTable":
    """The narrow columns of a table for the terminal, without caption and explanation; marked rows are bold.

    Numbers lose the zero before the decimal point, and headings break into lines as wide as their column, because many
    terminals have 80 columns. An interval that still does not fit stands below its estimate.
    """
    from rich import box
    from rich.markup import escape
    from rich.table import Table as RichTable

    shown = table.narrow()
    drawn = RichTable(box=box.SIMPLE_HEAD, show_edge=False, padding=0, collapse_padding=True)
    for place, column in enumerate(shown.columns):
        texts = [row[place].text for row in shown.rows]
        lines = textwrap.wrap(column.heading, max([NARROWEST_HEADING, *map(len, texts)]), break_long_words=False)
        words = [] if column.numeric else " ".join(texts).split(" ")
        drawn.add_column(
            escape("\n".join(lines)),
            justify="right" if column.numeric else "left",
            overflow="fold",
            min_width=min(max(map(len, words), default=1), LONGEST_WORD),
        )
    for place, row in enumerate(shown.rows):
        texts = [
            _LEADING_ZERO.sub("", cell.text) if column.numeric else cell.text
            for column, cell in zip(shown.columns, row, strict=True)
        ]
        drawn.add_row(*map(escape, texts), style="bold" if place in shown.marked else "")
    return drawn


def bold(name: object) -> str:
    """Text that may hold brackets, as rich markup that shows it in bold."""
    from rich.markup import escape

    return f"[bold]{escape(str(name))}[/bold]"

"""The end of a long command on one screen: the verdict, the rows that decided it, the files, and the next command."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from interp.runtime.console import results_console
from interp.views.overview import Overview
from interp.views.table import Table
from interp.views.terminal.show import bold, show_overview

if TYPE_CHECKING:
    from rich.console import Console

BRIEF_FACTS = ("Data", "Questions with a flip", "Pairs that flip")
"""The single numbers that the short form shows, of those that a result has."""


def show_screen(
    shown: Overview,
    deciding: Table,
    files: Sequence[Path] = (),
    following: str = "",
    full: bool = False,
    console: "Console | None" = None,
) -> None:
    """Print a result in short, or with all its tables if `full`; then the `files` written and the command `following`.

    The short form has the heading, the table of the rows that decided, the limits and the conclusion.
    """
    facts = [(name, fact) for name, fact in shown.facts if name in BRIEF_FACTS]
    brief = Overview(shown.heading, shown.conclusion, facts, [deciding] if deciding.rows else [], shown.notes)
    show_overview(shown if full else brief, console)
    console = console or results_console()
    if files:
        console.print(f"\nfiles: {_listed(files)}", soft_wrap=True, markup=False)
    if not full:
        kept = "the files hold all numbers" if files else "nothing was written: --out keeps all numbers"
        console.print(f"more: --full prints every table; {kept}", soft_wrap=True, markup=False)
    if following:
        console.print(f"next: {bold(following)}", soft_wrap=True)


def _listed(files: Sequence[Path]) -> str:
    """The folder and the names of some files in it; figures and their numbers are one word."""
    drawn = {path.stem for path in files if path.suffix == ".png"}
    names = [path.name for path in sorted(files) if path.stem not in drawn]
    return f"{files[0].parent}/ {', '.join([*names, *(['figures'] if drawn else [])])}"

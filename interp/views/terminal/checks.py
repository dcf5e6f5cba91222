"""The checks of a verification on the terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table
from interp.storage.checks import Check, _shown


def checks_table(checks: Sequence[Check]) -> "Table":
    """One row a check."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=0, collapse_padding=True)
    for name in ("", "claimed", "computed again", "within", ""):
        table.add_column(name, overflow="fold")
    for check in checks:
        state = "holds" if check.holds else "[bold red]does not hold[/bold red]"
        table.add_row(*map(escape, (check.what, *_shown(check), check.tolerance)), state)
    return table


def show_checks(checks: Sequence[Check], left: str) -> None:
    """Print the checks, how many do not hold, and what is `left` unchecked."""
    from interp.runtime.console import results_console

    console = results_console()
    console.print(checks_table(checks))
    wrong = sum(not check.holds for check in checks)
    told = f"{wrong} of {len(checks)} checks do not hold." if wrong else f"All {len(checks)} checks hold."
    console.print(f"{told} {left}", soft_wrap=True, markup=False)

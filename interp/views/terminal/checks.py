"""The checks of a verification on the terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table
from interp.storage.checks import Claim, _shown


def claims_table(claims: Sequence[Claim]) -> "Table":
    """One row a claim."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=0, collapse_padding=True)
    for name in ("", "claimed", "computed again", "within", ""):
        table.add_column(name, overflow="fold")
    for claim in claims:
        state = "holds" if claim.holds else "[bold red]does not hold[/bold red]"
        table.add_row(*map(escape, (claim.what, *_shown(claim), claim.tolerance)), state)
    return table


def show_claims(claims: Sequence[Claim], left: str) -> None:
    """Print the claims, how many do not hold, and what is `left` unchecked."""
    from interp.runtime.console import results

    console = results()
    console.print(claims_table(claims))
    wrong = sum(not claim.holds for claim in claims)
    told = f"{wrong} of {len(claims)} claims do not hold." if wrong else f"All {len(claims)} claims hold."
    console.print(f"{told} {left}", soft_wrap=True, markup=False)

"""The checks of a verification on the terminal."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from interp.runtime.console import results_console
from interp.storage.checks import Check
from interp.views.table import Table, tabulate, words
from interp.views.terminal.show import rich_table

if TYPE_CHECKING:
    from rich.console import Console

_DIGEST = re.compile(r"[0-9a-f]{32,}")


def checks_table(checks: Sequence[Check]) -> Table:
    """One row for each check; the checks that fail are marked."""
    return tabulate(
        "What the artifact claims, and what was computed again",
        [
            words("check", lambda check: check.what),
            words("claimed", lambda check: _shortened(check)[0]),
            words("computed again", lambda check: _shortened(check)[1]),
            words("tolerance", lambda check: check.tolerance),
            words("result", lambda check: "holds" if check.holds else "does not hold"),
        ],
        checks,
        marked=[place for place, check in enumerate(checks) if not check.holds],
        marker="does not hold",
    )


def show_checks(checks: Sequence[Check], left: str, console: "Console | None" = None) -> None:
    """Print the checks, how many do not hold, and `left`, a sentence on what was not checked."""
    console = console or results_console()
    console.print(rich_table(checks_table(checks)))
    wrong = sum(not check.holds for check in checks)
    told = f"{wrong} of {len(checks)} checks do not hold." if wrong else f"All {len(checks)} checks hold."
    console.print(f"{told} {left}", soft_wrap=True, markup=False)


def _shortened(check: Check) -> tuple[str, str]:
    """Both sides of a check; of two digests only the first letters, which are enough to see a difference."""
    pair = check.claimed, check.found
    return (pair[0][:12], pair[1][:12]) if all(_DIGEST.fullmatch(side) for side in pair) else pair

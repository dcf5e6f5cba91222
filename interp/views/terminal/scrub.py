"""The findings of `interp scrub` on the terminal."""

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from interp.runtime.console import results_console
from interp.sharing.scrub import SHORTEST, Finding


def show_scrub(
    found: Sequence[Finding], files: int, too_short: int, folder: Path, asked: bool, console: Console | None = None
) -> None:
    """Print every finding, or that there is none, and what was not looked for; `asked`: were questions given."""
    console = console or results_console()
    if found:
        table = Table(box=box.SIMPLE_HEAD, padding=0, collapse_padding=True)
        table.add_column("file", overflow="fold")
        table.add_column("may hold", overflow="fold")
        last = None
        for finding in found:
            table.add_row("" if finding.file == last else escape(finding.file), escape(finding.what))
            last = finding.file
        console.print(table)
    private = len({finding.file for finding in found})
    console.print(
        f"{folder}: {private or 'none'} of {files} files may hold what must not be shared.",
        soft_wrap=True,
        markup=False,
    )
    if not asked:
        console.print(
            "Only what looks private was looked for. --questions looks for every text, id and path of theirs."
        )
    elif too_short:
        console.print(f"{too_short} ids or names of fewer than {SHORTEST} characters were not looked for.")
    console.print("Pictures of text are not read, and paraphrases of it are not recognised: look at what you share.")

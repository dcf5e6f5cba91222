"""The findings of `interp scrub` on the terminal."""

from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from interp.runtime.console import results_console
from interp.schemas.scrub_report import SHORTEST_SEARCHED, ScrubReport


def show_scrub(report: ScrubReport, folder: Path, questions_given: bool, console: Console | None = None) -> None:
    """Print every finding, or that there is none, and what the search did not cover."""
    console = console or results_console()
    if report.findings:
        table = Table(box=box.SIMPLE_HEAD, padding=0, collapse_padding=True)
        table.add_column("file", overflow="fold")
        table.add_column("may hold", overflow="fold")
        last = None
        for finding in report.findings:
            table.add_row("" if finding.file == last else escape(finding.file), escape(finding.what))
            last = finding.file
        console.print(table)
    private = len({finding.file for finding in report.findings})
    console.print(
        f"{folder}: {private or 'none'} of {report.files} files may hold private content.", soft_wrap=True, markup=False
    )
    if not questions_given:
        console.print(
            "The search covered only what looks private. With --questions it covers all their texts, ids and paths."
        )
    elif report.too_short:
        console.print(
            f"{report.too_short} ids or texts of fewer than {SHORTEST_SEARCHED} characters were not searched for."
        )
    console.print("Text inside pictures and paraphrased text are not recognized, so look at the files before sharing.")

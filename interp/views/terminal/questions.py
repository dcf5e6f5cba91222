"""Imported and paraphrased questions on the terminal: counts, never text."""

import shlex
from collections.abc import Iterable
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from interp.runtime.console import results_console
from interp.schemas.import_report import ImportReport
from interp.views.terminal.show import bold


def show_import(report: ImportReport, out: Path, images: Path, console: Console | None = None) -> None:
    """Print what an import kept, what it set apart or left out and why, and the next command."""
    console = console or results_console()
    whose = "patients" if report.patients_known else "patients or images"
    console.print(
        f"\n{bold(out)}: {report.questions} questions ({report.closed} yes/no) on {report.images} images of "
        f"{report.patients} {whose}, {report.paraphrases} paraphrases"
    )
    counts = {"types": report.types, "true answers": report.closed_answers, "splits": report.splits}
    for name, values in counts.items():
        if not values:
            continue
        console.print(f"{name}: " + ", ".join(f"{key} {count}" for key, count in values.items()))
    table = Table(title="Set apart or left out", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
    for name in ("what", "why", "number", "first row"):
        table.add_column(name, justify="right" if name == "number" else "left", overflow="fold")
    for operator, count in report.inverted.items():
        table.add_row(
            "wording", f"inverts the meaning: {operator.replace('_', ' ')} (kept, never measured)", str(count), ""
        )
    for reason, count in report.dropped_paraphrases.items():
        table.add_row("wording", reason, str(count), "")
    for answer, count in report.other_answers.items():
        table.add_row("question", f"asks for yes or no, answer: {answer}", str(count), "")
    for reason, count in report.dropped.items():
        table.add_row("question", reason, str(count), report.dropped_rows[reason][0])
    if table.rows:
        console.print(table)
    for note in report.notes:
        console.print(note if note.startswith("warning: ") else f"note: {note}")
    console.print(
        f"\nnext: interp find-features --questions {shlex.quote(str(out))} --images {shlex.quote(str(images))} "
        "--model ... --saes ...",
        soft_wrap=True,
        markup=False,
    )


def show_paraphrased(
    out: Path,
    wordings: Iterable[tuple[str, str | None, int]],
    given: int,
    made: int,
    not_understood: int,
    console: Console | None = None,
) -> None:
    """Print how many questions were paraphrased by rule, and how many wordings have each pair of tags.

    `wordings` are (phenomenon, register, number of paraphrases). Of the questions, `given` had paraphrases already,
    `made` were given some, and `not_understood` could not be parsed.
    """
    console = console or results_console()
    console.print(
        f"\n{bold(out)}: {made} questions paraphrased by rule, {given} already had paraphrases, "
        f"{not_understood} were not understood and stay as they are"
    )
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    for name in ("phenomenon", "register", "wordings"):
        table.add_column(name, justify="right" if name == "wordings" else "left")
    for phenomenon, register, count in wordings:
        table.add_row(phenomenon, register or "-", str(count))
    console.print(table)

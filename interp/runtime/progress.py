"""Progress bars, which the main process shows on a terminal, and single-line messages."""

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from interp.runtime.console import progress_console
from interp.runtime.distributed import is_main
from interp.runtime.log import log_duration

T = TypeVar("T")
_open: list[str] = []
"""Description of the bar that is shown; empty if there is none."""


def notify(line: str) -> None:
    """Print a line on stderr that a user should read while the run goes on."""
    print(line, file=sys.stderr, flush=True)


def track(items: Sequence[T], description: str, unit: int = 1) -> Iterator[T]:
    """Iterate over `items` with a bar that shows progress, rate and time left. An item stands for `unit` things.

    Verbose logging reports the duration at the end. Inside another bar nothing is shown or logged.
    """
    if _open:
        yield from items
        return
    _open.append(description)
    started = time.monotonic()
    try:
        yield from _with_bar(items, description, unit)
    finally:
        _open.remove(description)
    if len(items):
        log_duration(f"{description}: {len(items)}{f' x {unit}' if unit > 1 else ''}", time.monotonic() - started)


@contextmanager
def spinner(description: str) -> Iterator[None]:
    """While open, show a spinner and the elapsed time, for work whose progress is unknown."""
    if _open:
        yield
        return
    _open.append(description)
    started = time.monotonic()
    try:
        if is_main() and progress_console().is_interactive:
            from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

            columns = (TextColumn("{task.description:<24}"), SpinnerColumn(finished_text=" "), TimeElapsedColumn())
            with Progress(*columns, console=progress_console()) as progress:
                task = progress.add_task(description, total=1)
                yield
                progress.advance(task)
        else:
            yield
    finally:
        _open.remove(description)
    log_duration(description, time.monotonic() - started)


def _with_bar(items: Sequence[T], description: str, unit: int) -> Iterator[T]:
    console = progress_console()
    # A dumb terminal cannot rewrite a line that it has printed.
    if not is_main() or not console.is_interactive or len(items) == 0:
        yield from items
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=False) as progress:
        task = progress.add_task(description, total=len(items), rate="")
        for item in items:
            yield item
            progress.advance(task)
            speed = progress.tasks[0].speed
            progress.update(task, rate=f"{speed * unit:{'.0f' if speed * unit >= 10 else '.2g'}}/s" if speed else "")

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
LINE_EVERY = 30.0
"""Time between two lines of progress where stderr is no terminal [s], whatever stages they are of."""
_open: list[str] = []
"""Description of the bar that is shown; empty if there is none."""
_said: list[float] = [time.monotonic()]
"""When the last line of progress was printed, or this module loaded [s of `time.monotonic`]; one number."""


def notify(line: str) -> None:
    """Print a line on stderr that a user should read while the run goes on."""
    print(line, file=sys.stderr, flush=True)


def track(items: Sequence[T], description: str, unit: int = 1) -> Iterator[T]:
    """Iterate over `items` with a bar that shows progress, rate and time left. An item stands for `unit` things.

    Verbose logging reports the duration at the end. Inside another bar nothing is shown or logged. Write it into the
    `for` statement: in a variable, it would count as open after an error, for as long as the traceback is kept.
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
    if not is_main() or len(items) == 0:
        yield from items
        return
    if console.is_jupyter:
        # Lines would be saved with the notebook.
        yield from items
        return
    # A dumb terminal cannot rewrite a line that it has printed, and a file should not hold a thousand bars.
    if not console.is_interactive:
        yield from _with_lines(items, description, unit)
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


def _with_lines(items: Sequence[T], description: str, unit: int) -> Iterator[T]:
    """Iterate over `items` with a line of progress every LINE_EVERY seconds, so that a redirected run says it works."""
    started = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - _said[0] >= LINE_EVERY and done < len(items):
            _said[0], rate = now, done / (now - started)
            left = time.strftime("%H:%M:%S", time.gmtime((len(items) - done) / rate))
            notify(f"{description}: {done * unit:,} of {len(items) * unit:,}, {rate * unit:.2g}/s, {left} left")

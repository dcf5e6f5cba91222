"""Progress bars: shown on a terminal by the main process, silent elsewhere; and single lines."""

import sys
from collections.abc import Iterator, Sequence
from typing import TypeVar

from interp.processes import is_main

T = TypeVar("T")


def tell(line: str) -> None:
    """Say on stderr what a user should know of a run while it goes on."""
    print(line, file=sys.stderr, flush=True)


def track(items: Sequence[T], description: str, unit: int = 1) -> Iterator[T]:
    """Iterate with a bar that shows the share done, the rate and the time left; `unit` things count as one item."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not is_main() or not console.is_terminal or len(items) == 0:
        yield from items
        return
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
            progress.update(task, rate=f"{speed * unit:.0f}/s" if speed and unit > 1 else "")

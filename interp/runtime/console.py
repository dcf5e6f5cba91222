"""Terminal output: results go to stdout, everything else to stderr."""

import os
from functools import cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.console import Console

DEFAULT_WIDTH = 80
"""Width of the results [columns] if stdout is not a terminal."""


def color_system() -> Literal["auto"] | None:
    """The colours that rich may use: none if NO_COLOR is set (https://no-color.org), else those of the terminal."""
    return None if os.environ.get("NO_COLOR") else "auto"


def results_console(width_elsewhere: int = DEFAULT_WIDTH) -> "Console":
    """A console on stdout; its lines have `width_elsewhere` columns if stdout is not a terminal."""
    from rich.console import Console

    console = Console(color_system=color_system(), highlight=False)
    if not console.is_terminal:
        console.width = width_elsewhere
    return console


@cache
def progress_console() -> "Console":
    """The console on stderr. Bars and log lines share it, so that a line moves a bar down instead of breaking it."""
    from rich.console import Console

    return Console(stderr=True, color_system=color_system(), highlight=False)

"""The terminal: results go to stdout, everything else to stderr; colours only where they are wanted and understood."""

import os
from functools import cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.console import Console

DEFAULT_WIDTH = 80
"""Columns that results need where there is no terminal to tell its own."""


def color_system() -> Literal["auto"] | None:
    """Which colours rich may use: none if NO_COLOR is set (https://no-color.org), else those of the terminal."""
    return None if os.environ.get("NO_COLOR") else "auto"


def results_console(width_elsewhere: int = DEFAULT_WIDTH) -> "Console":
    """stdout; where it is not a terminal, lines have `width_elsewhere` columns."""
    from rich.console import Console

    console = Console(color_system=color_system(), highlight=False)
    if not console.is_terminal:
        console.width = width_elsewhere
    return console


@cache
def progress_console() -> "Console":
    """stderr, one for bars and lines alike, so that a line moves the bars down and does not break them."""
    from rich.console import Console

    return Console(stderr=True, color_system=color_system(), highlight=False)

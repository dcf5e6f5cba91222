"""A search on the terminal."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from interp.runtime.console import results_console
from interp.schemas.layers import Layers
from interp.views.tables.search import search_overview
from interp.views.terminal.show import bold, show_overview

if TYPE_CHECKING:
    from rich.console import Console

NO_OPTIONS: Mapping[str, object] = MappingProxyType({})


def show_search(
    found: Layers, file: Path, console: "Console | None" = None, given: Mapping[str, object] = NO_OPTIONS
) -> None:
    """Print the search and the next command, which trains the range that is written in `file` (layers.json).

    `given` are the options that named the model and the questions, by their names: the next command needs them too.
    """
    show_overview(search_overview(found), console)
    if found.layers:
        options = [part for name, value in given.items() if value is not None for part in (name, str(value))]
        following = shlex.join(["finetune", "--layers-from", str(file), *options])
        (console or results_console()).print(f"\nnext: {bold(following)}", soft_wrap=True)

"""A search on the terminal."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from interp.schemas.layers import Layers
from interp.storage.manifest import MANIFEST, read_manifest
from interp.views.tables.deciding import search_deciding
from interp.views.tables.search import search_overview
from interp.views.terminal.screen import show_screen

if TYPE_CHECKING:
    from rich.console import Console

NO_OPTIONS: Mapping[str, object] = MappingProxyType({})


def show_search(
    found: Layers,
    file: Path,
    console: "Console | None" = None,
    given: Mapping[str, object] = NO_OPTIONS,
    full: bool = False,
) -> None:
    """Print the search on one screen, or with all its tables if `full`.

    `file` is its layers.json, from which the next command trains; the manifest beside it lists what was written.
    `given` are the options that named the model and the questions, by their names: the next command needs them too.
    """
    options = [part for name, value in given.items() if value is not None for part in (name, str(value))]
    following = shlex.join(["finetune", "--layers-from", str(file), *options]) if found.layers else ""
    manifest = read_manifest(file.parent)
    names = set() if manifest is None else {*manifest.files, MANIFEST}
    # The manifest lists the numbers of a figure, and not its drawings.
    drawn = {path.name for path in file.parent.glob("*.png") if f"{path.stem}.csv" in names}
    files = [file.parent / name for name in sorted(names | drawn)]
    show_screen(search_overview(found), search_deciding(found), files, following, full, console)

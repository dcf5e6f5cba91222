"""Finding the folder of an adapter: on this machine, in a folder above it, or on the Hugging Face hub."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from interp.runtime.errors import InputError
from interp.runtime.progress import notify
from interp.storage.hub import download, hub_id

CONFIG = "adapter_config.json"
FILES = (CONFIG, "adapter_model.safetensors", "gatescope.json")
"""The files of an adapter on the hub that an evaluation reads."""


class Given(NamedTuple):
    """What stands in the place of an adapter."""

    folder: Path
    """Folder of the adapter on this machine; of a whole model, its folder as it was given or its hub id."""
    is_model: bool
    """Whether it is a whole model, such as a merged one."""


def locate_adapter(given: str | Path) -> Given:
    """Find an adapter by its folder, by a folder that holds it, or by a hub id with or without a folder in it.

    A folder that holds a single adapter, such as that of a training with one checkpoint, stands for it. Files that the
    hub's cache lacks are downloaded. Raises InputError if there is neither an adapter nor a whole model, if a folder
    holds several adapters, and as `interp.storage.hub.download` does.
    """
    path = Path(given)
    if path.is_dir():
        return _in_folder(path, str(given))
    repo, inside = hub_id(given, "a hub id such as owner/name or owner/name/folder", inside=True)
    # First the small files: a repository may hold the weights of many checkpoints.
    root = download(repo, None, [f"*{CONFIG}", "config.json"])
    if not (root / inside).is_dir():
        raise InputError(f"{given}: the repository {repo} holds no adapter in a folder {inside!r}.")
    found = _in_folder(root / inside, str(given))
    if found.is_model:
        return Given(Path(repo, inside), True)
    below = found.folder.relative_to(root).as_posix()
    download(repo, root.name, [name if below == "." else f"{below}/{name}" for name in FILES])
    return found


def _in_folder(folder: Path, given: str) -> Given:
    if (folder / CONFIG).is_file():
        return Given(folder, False)
    if (folder / "config.json").is_file():
        return Given(folder, True)
    inside = sorted((path.parent for path in folder.glob(f"*/{CONFIG}")), key=_step)
    if not inside:
        # Whoever reads the adapter names the file that is missing.
        return Given(folder, False)
    if len(inside) > 1:
        raise InputError(
            f"{given}: holds {len(inside)} adapters ({_listed(inside)}) and is none itself. Give one of them, for "
            f"example {given.rstrip('/')}/{inside[-1].name}."
        )
    notify(f"{given}: the adapter is that in its folder {inside[0].name}.")
    return Given(inside[0], False)


def _step(folder: Path) -> tuple[int, str]:
    """Order checkpoints by their number, so that the last is that of the longest training."""
    number = re.search(r"\d+$", folder.name)
    return (int(number.group()) if number else -1, folder.name)


def _listed(folders: Sequence[Path]) -> str:
    names = [folder.name for folder in folders]
    return ", ".join(names if len(names) <= 4 else [*names[:2], "...", names[-1]])

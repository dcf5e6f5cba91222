"""Folders that a user names: what an error says of one that is not there."""

import os
from pathlib import Path

from interp.runtime.errors import InputError


def check_folder(path: Path, advice: str) -> None:
    """Raise InputError unless there is a folder `path`; it names one that is called nearly the same.

    `advice` says what to give, in a sentence.
    """
    if path.is_dir():
        return
    if path.exists():
        raise InputError(f"{path}: is a file, expected a folder. {advice}")
    raise InputError(f"{path}: no such folder.{did_you_mean(nearest_folder(path))} {advice}")


def did_you_mean(found: Path | None) -> str:
    """A sentence about the folder that was probably meant, after a blank; empty if there is none."""
    return "" if found is None else f" Did you mean {found}?"


def nearest_folder(path: Path) -> Path | None:
    """The folder that a path which is none probably meant, with parts called nearly the same; None if there is none."""
    from difflib import get_close_matches

    path = Path(os.path.expanduser(path))
    place = Path(path.anchor)
    for part in path.relative_to(place).parts:
        # `Path.is_dir` raises for what is in a folder that cannot be entered.
        if not os.path.isdir(place / part):
            try:
                beside = [each.name for each in os.scandir(place) if each.is_dir()]
            except OSError:
                return None
            close = get_close_matches(part, beside, n=1, cutoff=0.75)
            if not close:
                return None
            part = close[0]
        place /= part
    return place

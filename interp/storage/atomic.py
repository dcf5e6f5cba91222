"""Writing files whole or not at all, and describing where a result came from."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from interp.runtime.errors import InputError
from interp.storage.disk_full import disk_full_errors
from interp.storage.lock import LOCK

PARTIAL = ".partial-"
"""What the names of unfinished files and folders begin with."""


def write_text(path: Path, text: str) -> None:
    """Write a text file so that it appears whole or not at all."""
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def atomic_file(path: Path, lasting: bool = True) -> Iterator[Path]:
    """A temporary path beside `path`, of the same ending, that replaces it when the block ends without an error.

    If `lasting`, the file is there after a loss of power too, which takes some milliseconds to make sure of. Raises
    InputError if there is no room for it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with disk_full_errors(path):
        handle, name = tempfile.mkstemp(prefix=PARTIAL, suffix=path.suffix, dir=path.parent)
        os.close(handle)
        partial = Path(name)
        try:
            yield partial
            partial.chmod(0o666 & ~umask())
            if lasting:
                flush(partial)
            partial.replace(path)
            if lasting:
                flush(path.parent)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path, within: Path | None = None) -> Iterator[Path]:
    """A temporary folder that takes the name `path` when the block ends without an error, after which it lasts.

    It is made in the folder `within`, of the same file system, by default beside `path`. Raises InputError if `path`
    exists already and is not an empty folder, and if there is no room.
    """
    refuse_used(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with disk_full_errors(path):
        partial = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=within or path.parent))
        try:
            yield partial
            # Some writers make private files; a result is as readable as any file.
            for inside in [*partial.rglob("*"), partial]:
                inside.chmod((0o777 if inside.is_dir() else 0o666) & ~umask())
                flush(inside)
            if path.is_dir():
                path.rmdir()
            partial.replace(path)
            flush(path.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@cache
def umask() -> int:
    """The permissions that this process's files do not get, as it was started."""
    # It can only be read by setting it.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def flush(path: Path) -> None:
    """Wait until the content of a file, or the list of a folder, is on the disk."""
    # Windows knows no such thing of a folder, nor of a file that was opened to be read.
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep(folder: Path) -> None:
    """Remove what writers left unfinished in a folder when they were killed. Nobody else may be writing into it."""
    for left in folder.glob(f"{PARTIAL}*"):
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink()


def refuse_used(path: Path) -> None:
    """Raise InputError if `path` is a file or a folder that holds something; a lock does not count."""
    if path.is_file() or (path.is_dir() and any(inside.name != LOCK for inside in path.iterdir())):
        raise InputError(
            f"{path}: already holds something, and nothing is overwritten. Choose another --out or remove it."
        )

"""Writing files and folders atomically: they appear complete, or not at all."""

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
"""Prefix of the names of unfinished files and folders."""


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def atomic_file(path: Path, lasting: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`, with the same suffix, that replaces `path` if the block ends without error.

    A `lasting` file survives a power failure, which costs some milliseconds. Raises InputError if the disk is full.
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
    """Yield a temporary folder that is renamed to `path` if the block ends without error; it survives a power failure.

    It is made in the folder `within`, which must be on the same file system and is by default the parent of `path`.
    Raises InputError if `path` exists and is not an empty folder, and if the disk is full.
    """
    refuse_used(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with disk_full_errors(path):
        partial = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=within or path.parent))
        try:
            yield partial
            # Some writers make their files private, but a result should have the usual permissions.
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
    """The permission bits that new files of this process do not get, as they were when it was first called."""
    # The only way to read the umask is to set it.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def flush(path: Path) -> None:
    """Wait until a file's content, or a folder's list of files, is on the disk."""
    # Windows can flush neither a folder nor a file that is open for reading.
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep(folder: Path) -> None:
    """Remove what killed writers left unfinished in a folder. No other process may be writing into it."""
    for left in folder.glob(f"{PARTIAL}*"):
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink()


def refuse_used(path: Path) -> None:
    """Raise InputError if `path` is a file or a folder that is not empty; a lock file does not count."""
    if path.is_file() or (path.is_dir() and any(inside.name != LOCK for inside in path.iterdir())):
        raise InputError(f"{path}: already exists, and nothing is overwritten. Choose another --out, or remove it.")

"""Writing files and folders atomically: they appear complete, or not at all."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from interp.runtime.errors import InputError
from interp.storage.lock import LOCK
from interp.storage.write_errors import disk_full_errors, write_errors

PARTIAL = ".partial-"
"""Prefix of the names of unfinished files and folders."""


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def atomic_file(path: Path, lasting: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`, with the same suffix, that replaces `path` if the block ends without error.

    A `lasting` file survives a power failure, which costs some milliseconds. Raises InputError if the disk is full or
    the place cannot be written to.
    """
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=PARTIAL, suffix=path.suffix, dir=path.parent)
        os.close(handle)
    partial = Path(name)
    try:
        with disk_full_errors(path):
            yield partial
        with write_errors(path):
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
    Raises InputError if `path` exists and is not an empty folder, if the disk is full, and if the place cannot be
    written to.
    """
    refuse_used(path)
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=within or path.parent))
    try:
        with disk_full_errors(path):
            yield partial
        with write_errors(path):
            # Some writers make their files private, but a result should have the usual permissions.
            for inside in [*partial.rglob("*"), partial]:
                inside.chmod((0o777 if inside.is_dir() else 0o666) & ~umask())
                flush(inside)
            if path.is_dir():
                # A killed process may have left it, and `refuse_used` passes it over.
                (path / LOCK).unlink(missing_ok=True)
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
    """Raise InputError if `path` cannot be written, is a file, or is a folder that holds more than a lock file.

    Call it before long work, whose result would be lost otherwise.
    """
    refuse_unwritable(path)
    if path.is_file() or (path.is_dir() and any(inside.name != LOCK for inside in path.iterdir())):
        raise InputError(f"{path}: already exists, and nothing is overwritten. Choose another --out, or remove it.")


def refuse_unwritable(path: Path) -> None:
    """Raise InputError if no file or folder `path` can be created. Leaves no trace."""
    with write_errors(path):
        above = path.absolute()
        while not _exists(above):
            above = above.parent
        if not above.is_dir():
            if above == path.absolute():
                return
            raise NotADirectoryError(errno.ENOTDIR, "Not a directory", str(above))
        # Trying is the only reliable way: the rights of a folder say nothing of the file system.
        with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=above):
            pass


def _exists(path: Path) -> bool:
    """Whether there is anything at `path`. Raises OSError for a name that is too long or a folder without rights."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True

"""One process per folder, because two processes that write into the same folder would spoil each other's work."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from interp.runtime.errors import InputError
from interp.storage.write_errors import write_errors

LOCK = ".lock"
"""Name of the lock file, which says who holds it."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other processes from holding `folder`. It is created if need be, and removed again if it ends up empty.

    The operating system frees the lock when its process ends, even by a crash. Raises InputError if another process
    holds it, on this machine or on one that shares the file system, and if it cannot be written to.
    """
    from filelock import FileLock, Timeout

    path = folder / LOCK
    lock = FileLock(path, timeout=0)
    with write_errors(folder):
        made = [folder, *(above for above in folder.absolute().parents if not above.exists())]
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            raise InputError(
                f"{folder}: {_holder(path)} is working on it. Wait until it ends, stop it, or choose another --out."
            ) from None
    try:
        # This is for people; some systems let nobody touch a locked file.
        with suppress(OSError):
            path.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
        yield
    finally:
        # Removed before it is released: the next process creates a new file, and a lock on a removed one has no effect.
        # Windows keeps an open file; there it is removed when it is released.
        with suppress(OSError):
            path.unlink(missing_ok=True)
        lock.release()
        with suppress(OSError):
            for empty in made:
                empty.rmdir()


def _holder(path: Path) -> str:
    with suppress(OSError, UnicodeDecodeError):
        return path.read_text(encoding="utf-8") or "another process"
    return "another process"

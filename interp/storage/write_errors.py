"""The errors of places that cannot be written to, and of a full disk, as one plain message each."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from interp.runtime.errors import InputError

FULL_DISK_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""System errors for a full disk, an exhausted quota, and a file above the size limit."""


@contextmanager
def disk_full_errors(path: Path) -> Iterator[None]:
    """Turn the errors of a full disk into an InputError that names `path`."""
    try:
        yield
    except Exception as error:
        # safetensors raises an error of its own, which has the system's number in its text only.
        number = getattr(error, "errno", None)
        if number not in FULL_DISK_ERRNOS and not any(
            f"(os error {known})" in str(error) for known in FULL_DISK_ERRNOS
        ):
            raise
        raise InputError(
            f"{path}: there is no room to write it; an earlier version is unchanged. Free space on that disk, and "
            "run the command again."
        ) from None


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn every error of the system into an InputError that says that `path` cannot be written, and why.

    Only for blocks that do nothing but create or move files there: no rights, a read-only disk, a file in the place of
    a folder, or a name that is too long.
    """
    try:
        with disk_full_errors(path):
            yield
    except OSError as error:
        place = Path(error.filename or path)
        # A temporary file means nothing to the user.
        place = place.parent if place.name.startswith(".") else place
        at = "" if place in (path, path.absolute()) else f" at {place}"
        raise InputError(
            f"{_shortened(path)}: cannot be written ({error.strerror or error}{_shortened(at)}). Choose a place where "
            "you may create files."
        ) from None


def _shortened(place: object) -> str:
    """A path as text; the end of one that is too long for any file system is left out."""
    text = str(place)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


LONGEST_SHOWN = 300
"""Characters of a path that a message shows."""

"""The errors of a full disk as one plain message."""

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

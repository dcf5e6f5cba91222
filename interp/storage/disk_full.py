"""A full disk, in plain words."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from interp.runtime.errors import InputError

FULL_DISK_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Numbers of the errors of a full disk, a used quota, and a file larger than may be."""


@contextmanager
def disk_full_errors(path: Path) -> Iterator[None]:
    """Turns the errors of a full disk into an InputError."""
    try:
        yield
    except Exception as error:
        # The writer of safetensors raises an error of its own, with the system's number in its text.
        number = getattr(error, "errno", None)
        if number not in FULL_DISK_ERRNOS and not any(
            f"(os error {known})" in str(error) for known in FULL_DISK_ERRNOS
        ):
            raise
        raise InputError(
            f"{path}: there is no room to write it, and what was there before is as it was. Make room on that disk, "
            "and give the command again."
        ) from None

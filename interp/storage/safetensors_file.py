"""Opening a safetensors file, with an error for one that is cut off or is none."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from interp.runtime.errors import InputError


@contextmanager
def opened_tensors(path: Path) -> Iterator[Any]:
    """The safetensors file, open for reading; its tensors are read on request, on the CPU.

    Raises InputError if it is incomplete or no such file, for example the pointer that git leaves without git-lfs.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a complete safetensors file ({error}). Download it again.") from None

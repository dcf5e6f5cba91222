"""Comparing a kernel of ours with PyTorch before it is used, since other versions of its libraries may break it."""

import logging
from collections.abc import Callable
from importlib.util import find_spec

import torch

from interp.runtime.errors import first_line
from interp.runtime.progress import notify

log = logging.getLogger(__name__)


def agrees(user: str, difference: Callable[[], float], most: float) -> bool:
    """Whether a kernel of attention runs here, and its `difference` from PyTorch is at most `most`.

    If not, it says on stderr that `user`, such as "the vision tower", uses PyTorch's attention, and why; but nothing
    without Triton, or with one that is too old. Raises OutOfMemoryError, which says nothing of the kernel.
    """
    fallback = (
        f"warning: {user} uses PyTorch's attention, because our kernel failed on this GPU; margins differ in their "
        "last digits from those of a run in which it works"
    )
    if find_spec("triton") is None:
        return False
    try:
        off = difference()
    except ImportError as error:
        log.info("%s uses PyTorch's attention: Triton is too old (%s)", user, error)
        return False
    except torch.OutOfMemoryError:
        raise
    # Another version may fail in any way.
    except Exception as error:
        notify(f"{fallback} ({type(error).__name__}: {first_line(error)})")
        return False
    if not off <= most:
        notify(f"{fallback} (off by {off:.2g})")
    return off <= most

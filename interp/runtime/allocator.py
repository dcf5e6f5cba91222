"""How the C library keeps the memory that a program frees."""

import ctypes
import os
import sys

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
"""Numbers of these settings in glibc's malloc.h."""
LARGEST = 2**25
"""From this size on, memory comes from the system and returns to it at once [bytes]; glibc allows no more."""
KEPT = 2**28
"""Most freed memory that is kept for the next tensors [bytes]."""


def keep_freed_memory() -> None:
    """Let freed memory be used again by the next tensors of a CPU, rather than return to the system; Linux only.

    Otherwise the activations of every batch are new memory, whose pages the system must clear first: half a million
    pages in a search of the embedded world, a tenth of its time. What the user has set is kept.
    """
    # Windows cannot open a library without a name.
    if sys.platform != "linux":
        return
    if "MALLOC_TRIM_THRESHOLD_" in os.environ or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MMAP_THRESHOLD, LARGEST)
        mallopt(TRIM_THRESHOLD, KEPT)

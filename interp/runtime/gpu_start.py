"""The start of a GPU's driver, in a thread beside the imports of a command, which do without it for seconds."""

import ctypes
import os
from contextlib import suppress
from pathlib import Path
from threading import Thread

from interp.runtime.distributed import process_count
from interp.runtime.threads import TURN_BESIDE_GPU, take_short_turns

DRIVER = "libcuda.so.1"
"""NVIDIA's driver on Linux. Other systems and makers have another one, which torch starts later."""
CONTROL = Path("/dev/nvidiactl")
"""The driver's device file."""
FIRST = ("auto", "cuda", "cuda:0")
"""Options for a device that mean the first GPU of a single process."""
THREADS = 2
"""Threads among which the host's libraries divide an operation beside a GPU."""


def begin_gpu(device: str) -> None:
    """Begin to start the driver of the first GPU, and torch's context on it, if `device` may mean that GPU.

    torch would do so when it is first asked for a GPU, and hold up the imports. Nothing is begun in one of several
    processes, each of which has a GPU of its own. Must be called before torch and numpy are imported: of a GPU's host,
    up to twenty threads read images, screen and launch at the same time, each of which would otherwise divide its
    operations among as many threads as there are cores. What the user has set is kept.
    """
    if device in FIRST and process_count() == 1 and CONTROL.exists():
        os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))
        take_short_turns(TURN_BESIDE_GPU)
        Thread(target=_start).start()


def _start() -> None:
    # Whoever needs a GPU reports what is missing.
    with suppress(OSError, AttributeError):
        driver = ctypes.CDLL(DRIVER)
        number, context = ctypes.c_int(), ctypes.c_void_p()
        if driver.cuInit(0) == 0 and driver.cuDeviceGet(ctypes.byref(number), 0) == 0:
            # The context that torch takes too.
            driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), number)

"""The start of a GPU's driver, in a thread beside the imports of a command, which do without it for seconds."""

import ctypes
from contextlib import suppress
from threading import Thread

from interp.runtime.distributed import process_count

DRIVER = "libcuda.so.1"
"""NVIDIA's driver on Linux. Other systems and makers have another one, which torch starts later."""
FIRST = ("auto", "cuda", "cuda:0")
"""Options for a device that mean the first GPU of a single process."""


def begin_gpu(device: str) -> None:
    """Begin to start the driver of the first GPU, and torch's context on it, if `device` may mean that GPU.

    torch would do so when it is first asked for a GPU, and hold up the imports. Nothing is begun in one of several
    processes, each of which has a GPU of its own.
    """
    if device in FIRST and process_count() == 1:
        Thread(target=_start).start()


def _start() -> None:
    # Whoever needs a GPU reports what is missing.
    with suppress(OSError, AttributeError):
        driver = ctypes.CDLL(DRIVER)
        number, context = ctypes.c_int(), ctypes.c_void_p()
        if driver.cuInit(0) == 0 and driver.cuDeviceGet(ctypes.byref(number), 0) == 0:
            # The context that torch takes too.
            driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), number)

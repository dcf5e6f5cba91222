"""The start of a GPU's driver, in a thread beside the imports of a command, which do without it for seconds."""

import ctypes
import os
from contextlib import suppress
from importlib.util import find_spec
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
LIBRARY = "lib/libtorch_cuda.so"
"""Torch's part for GPUs, in its folder."""
NONE_VISIBLE = ("", "-1")
"""What CUDA_VISIBLE_DEVICES says if all GPUs are hidden."""
THREADS = 2
"""Threads among which the host's libraries divide an operation beside a GPU."""


def begin_gpu(device: str) -> None:
    """Begin to start the driver of the first GPU, and torch's context on it, if `device` may mean that GPU.

    torch would do so when it is first asked for a GPU, and everything would wait for it. Nothing is begun in one of
    several processes, each of which has a GPU of its own. Must be called before torch and numpy are imported: on the
    host of a GPU, up to twenty threads read images, screen and launch at the same time, and each would divide its
    operations among as many threads as there are cores. They get `THREADS`, unless the user has set a number.
    """
    if device in FIRST and process_count() == 1 and _has_gpu():
        os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))
        take_short_turns(TURN_BESIDE_GPU)
        # A command that ends early does not wait for a driver that takes seconds.
        Thread(target=_start, daemon=True).start()


def _has_gpu() -> bool:
    """Whether there is a GPU that torch would take, as far as can be told without importing it."""
    if not CONTROL.exists() or os.environ.get("CUDA_VISIBLE_DEVICES", "0") in NONE_VISIBLE:
        return False
    found = find_spec("torch")
    # What `pip` calls the CPU's build of torch lacks this library.
    return found is not None and found.origin is not None and (Path(found.origin).parent / LIBRARY).exists()


def _start() -> None:
    # Whoever needs a GPU reports what is missing.
    with suppress(OSError, AttributeError):
        driver = ctypes.CDLL(DRIVER)
        number, context = ctypes.c_int(), ctypes.c_void_p()
        if driver.cuInit(0) == 0 and driver.cuDeviceGet(ctypes.byref(number), 0) == 0:
            # The context that torch takes too.
            driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), number)

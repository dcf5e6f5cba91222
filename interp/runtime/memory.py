"""The memory that a run may still allocate, on the model's device and in main memory."""

import math
from pathlib import Path
from typing import NamedTuple

import torch

from interp.runtime.distributed import local_process_count
from interp.runtime.errors import InputError

DEFAULT_SHARE = 0.8
"""Share of the free memory that a run uses if no limit is given; the rest is for other programs and small tensors."""
GIB = 2**30


class Memory(NamedTuple):
    """Memory that may still be allocated [bytes]."""

    device: int
    """Free memory on the model's device [bytes]."""
    host: int
    """Free main memory [bytes]; the same memory as `device` if the model is on the CPU."""


def limit_memory(device: torch.device, max_memory: float) -> None:
    """Limit torch to `max_memory` [GiB] of a GPU, beyond which it raises torch.OutOfMemoryError. No effect on a CPU.

    Raises InputError unless the limit is a number above 0.
    """
    if not isinstance(max_memory, int | float) or not is_size(max_memory):
        raise InputError(f"max_memory is {max_memory!r}, expected a number of GiB above 0, or None for no limit.")
    if device.type == "cuda":
        # torch wants the number of the GPU here, and a device named cuda has none.
        number = torch.cuda.current_device() if device.index is None else device.index
        total = torch.cuda.get_device_properties(number).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, max_memory * GIB / total), number)


def is_size(gib: float) -> bool:
    """Whether a number [GiB] is a size of memory: above 0 and, in bytes, finite."""
    # nan is neither above nor below anything.
    return 0 < gib * GIB < math.inf


def memory_left(device: torch.device, max_memory: float | None = None) -> Memory:
    """The memory that may still be allocated: what is left of `max_memory` [GiB], and at most DEFAULT_SHARE of what is
    free.

    `max_memory` limits the device and main memory separately; None sets no limit.
    """
    import psutil

    # The other processes of the run on this machine need as much.
    host = int(DEFAULT_SHARE * main_memory() / local_process_count())
    if max_memory is not None:
        host = min(host, int(max_memory * GIB) - psutil.Process().memory_info().rss)
    if device.type != "cuda":
        return Memory(max(0, host), max(0, host))
    # What the limit leaves is not used up either: torch's allocator needs some room between tensors.
    return Memory(int(DEFAULT_SHARE * gpu_memory(device, max_memory)), max(0, host))


def gpu_memory(device: torch.device, max_memory: float | None = None) -> int:
    """All memory that may still be allocated on a GPU [bytes], of at most `max_memory` [GiB]."""
    free, _ = torch.cuda.mem_get_info(device)
    allocated = torch.cuda.memory_allocated(device)
    # Memory that torch has reserved but does not use is available too.
    left = free + torch.cuda.memory_reserved(device) - allocated
    return max(0, left if max_memory is None else min(left, int(max_memory * GIB) - allocated))


def total_left(device: torch.device, max_memory: float | None = None) -> int:
    """All memory that may still be allocated on a device [bytes], of at most `max_memory` [GiB].

    Unlike `memory_left` it leaves nothing for other programs: what does not fit into it cannot run.
    """
    if device.type == "cuda":
        return gpu_memory(device, max_memory)
    left = main_memory()
    return left if max_memory is None else min(left, int(max_memory * GIB))


def main_memory() -> int:
    """All main memory that this process may still allocate [bytes], with the limit of its control group."""
    import psutil

    available = psutil.virtual_memory().available
    group = free_in_group(control_group())
    return available if group is None else min(available, group)


def control_group() -> Path:
    """The folder of this process's control group (version 2), with which containers and schedulers limit memory."""
    try:
        _, _, own = Path("/proc/self/cgroup").read_text().strip().rpartition("0::")
    except OSError:
        own = ""
    return Path("/sys/fs/cgroup") / own.lstrip("/")


def free_in_group(folder: Path) -> int | None:
    """Memory that a control group may still allocate [bytes], None if it is not limited; cached files count as free."""
    try:
        limit = (folder / "memory.max").read_text().strip()
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return None if limit == "max" else max(0, int(limit) - int(stat["anon"]) - int(stat["shmem"]))
    except (OSError, ValueError, KeyError):
        return None

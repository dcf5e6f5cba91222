"""How much memory a run may still take, on the model's device and in main memory."""

from pathlib import Path
from typing import NamedTuple

import torch

from interp.runtime.distributed import local_process_count

DEFAULT_SHARE = 0.8
"""Of what is free that is taken where no limit is given: the rest is for others, and for what is not counted."""
GIB = 2**30


class Memory(NamedTuple):
    """Bytes that may still be taken."""

    device: int
    """On the model's device."""
    host: int
    """In main memory; the same memory as `device` where the model is on the CPU."""


def limit_memory(device: torch.device, max_memory: float) -> None:
    """Let torch take at most `max_memory` [GiB] of a GPU; it raises torch.OutOfMemoryError beyond. Nothing on a CPU."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, max_memory * GIB / total), device)


def memory_left(device: torch.device, max_memory: float | None = None) -> Memory:
    """What is left of `max_memory` [GiB], on the device and in main memory each; by default SHARE of what is free."""
    import psutil

    available = psutil.virtual_memory().available
    group = free_in_group(control_group())
    # The other processes of a run on this machine take as much.
    host = int(DEFAULT_SHARE * (available if group is None else min(available, group)) / local_process_count())
    if max_memory is not None:
        host = min(host, int(max_memory * GIB) - psutil.Process().memory_info().rss)
    if device.type != "cuda":
        return Memory(max(0, host), max(0, host))
    free, _ = torch.cuda.mem_get_info(device)
    # What torch has reserved without using it is free for us too.
    left = int(DEFAULT_SHARE * (free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)))
    if max_memory is not None:
        left = min(left, int(max_memory * GIB) - torch.cuda.memory_allocated(device))
    return Memory(max(0, left), max(0, host))


def control_group() -> Path:
    """Folder of the control group (version 2) that this process runs in, as containers and schedulers make them."""
    try:
        _, _, own = Path("/proc/self/cgroup").read_text().strip().rpartition("0::")
    except OSError:
        own = ""
    return Path("/sys/fs/cgroup") / own.lstrip("/")


def free_in_group(folder: Path) -> int | None:
    """Bytes that a control group may still take, None if nothing limits it; cached files count as free."""
    try:
        limit = (folder / "memory.max").read_text().strip()
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return None if limit == "max" else max(0, int(limit) - int(stat["anon"]) - int(stat["shmem"]))
    except (OSError, ValueError, KeyError):
        return None

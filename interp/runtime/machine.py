"""Facts about this machine: driver, GPUs, cores and disks."""

import os
import re
import shutil
from pathlib import Path
from typing import NamedTuple

DRIVER_FILE = Path("/proc/driver/nvidia/version")
"""Where Linux says which NVIDIA driver is loaded."""


class GpuFacts(NamedTuple):
    """One GPU that torch can use."""

    name: str
    """Name of the card."""
    total: int
    """Its memory [bytes]."""
    free: int
    """Memory that no program uses now [bytes]."""
    capability: tuple[int, int]
    """Compute capability."""


def gpus() -> list[GpuFacts]:
    """The GPUs that torch can use, by number."""
    import torch

    found = []
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        found.append(
            GpuFacts(torch.cuda.get_device_name(number), total, free, torch.cuda.get_device_capability(number))
        )
    return found


def driver_version() -> str | None:
    """Version of the NVIDIA driver that is loaded; None if there is none, or on other systems than Linux."""
    try:
        match = re.search(r"(\d+\.\d+(\.\d+)?)", DRIVER_FILE.read_text())
    except OSError:
        return None
    return match[1] if match else None


def cores() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_space(folder: Path) -> int:
    """Free space [bytes] of the disk that a folder is on, or will be on once it is made."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    return shutil.disk_usage(there).free


def from_home(path: Path) -> str:
    """A path with ~ for the home folder, whose name is often that of a person."""
    try:
        return str(Path("~") / path.absolute().relative_to(Path.home()))
    except (ValueError, RuntimeError):
        return str(path)

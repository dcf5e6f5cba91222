"""Copies between the device and main memory that wait for nothing they need not wait for."""

from collections.abc import Callable

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device; a GPU gets it when it has done what it was given before, and nobody waits for that."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def fetched(tensor: Tensor) -> Callable[[], Tensor]:
    """Start to copy a tensor to main memory. What comes back gives it, and waits for that copy, not for later work."""
    if tensor.device.type != "cuda":
        return tensor.cpu
    pinned = tensor.to("cpu", non_blocking=True)
    done = torch.cuda.Event()
    done.record(torch.cuda.current_stream(tensor.device))

    def wait() -> Tensor:
        done.synchronize()
        # Pinned memory is taken from all programs of the machine, so nothing stays in it.
        return pinned.clone()

    return wait

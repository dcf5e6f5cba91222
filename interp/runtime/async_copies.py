"""Copies between the device and main memory that wait for nothing they need not wait for."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def to_device_async(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device; a GPU gets it when it has done what it was given before, and nobody waits for that."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def to_host_async(tensor: Tensor) -> Callable[[], Tensor]:
    """Start to copy a tensor to main memory. What comes back gives it, and waits for that copy, not for later work.

    From a GPU it comes in pinned memory, which is taken from all programs of the machine: copy what is to stay.
    """
    if tensor.device.type != "cuda":
        return tensor.cpu
    pinned = tensor.to("cpu", non_blocking=True)
    done = torch.cuda.Event()
    done.record(torch.cuda.current_stream(tensor.device))

    def wait() -> Tensor:
        done.synchronize()
        return pinned

    return wait


def pipeline_to_host(launched: Iterable[tuple[T, Sequence[Tensor]]]) -> Iterator[tuple[T, list[Tensor]]]:
    """Each item with its tensors as of `to_host_async`, one behind: a GPU has the next item to do while these arrive."""
    former: tuple[T, list[Callable[[], Tensor]]] | None = None
    for item, tensors in launched:
        following = item, [to_host_async(tensor) for tensor in tensors]
        if former is not None:
            yield former[0], [arrived() for arrived in former[1]]
        former = following
    if former is not None:
        yield former[0], [arrived() for arrived in former[1]]

"""Asynchronous copies between a GPU and main memory."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def to_device_async(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device. A copy to a GPU is queued behind earlier work, and the caller does not wait for it."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def to_host_async(tensor: Tensor) -> Callable[[], Tensor]:
    """Start copying a tensor to main memory; the returned function waits for that copy alone and returns it.

    Tensors from a GPU arrive in pinned memory, which is scarce for the whole machine: clone what is kept.
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
    """Yield each item with its tensors in main memory, one item late.

    The next item is launched before the tensors of the previous one are waited for, so that a GPU is never idle. The
    tensors are as `to_host_async` returns them.
    """
    former: tuple[T, list[Callable[[], Tensor]]] | None = None
    for item, tensors in launched:
        following = item, [to_host_async(tensor) for tensor in tensors]
        if former is not None:
            yield former[0], [arrived() for arrived in former[1]]
        former = following
    if former is not None:
        yield former[0], [arrived() for arrived in former[1]]

"""Asynchronous copies between a GPU and main memory."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

from interp.runtime.prefetch import map_ahead

T = TypeVar("T")
COPIED = 2**24
"""Bytes that a thread copies to a GPU at a time."""
COPYING = 4
"""Number of threads that copy to a GPU."""


def to_device_async(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device. A copy to a GPU is queued behind earlier work, and the caller does not wait for it."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def to_device_beside(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor in pinned memory to a GPU beside earlier work, so that many MB do not hold up the GPU.

    Later work of the current stream waits for the copy.
    """
    current, beside = torch.cuda.current_stream(device), _stream_beside(device)
    with torch.cuda.stream(beside):
        copied = tensor.to(device, non_blocking=True)
    current.wait_stream(beside)
    copied.record_stream(current)
    return copied


@cache
def _stream_beside(device: torch.device) -> torch.cuda.Stream:
    # One for all copies, because memory that was used by one stream is not given to another.
    return torch.cuda.Stream(device)


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


def copy_to_gpu(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Contiguous copies of tensors in main memory, on a GPU, as `fill_on_gpu` makes them."""
    copies = [torch.empty(tensor.shape, dtype=tensor.dtype, device=device) for tensor in tensors]
    fill_on_gpu(copies, tensors)
    return copies


def fill_on_gpu(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy tensors in main memory into contiguous ones of the same shapes on one GPU, in threads through pinned memory.

    They are there when it returns. A single thread reads the weights of a file at a quarter of this speed, and a copy
    from memory that is not pinned holds up what is queued on the GPU.
    """
    parts = [
        part
        for target, source in zip(targets, sources, strict=True)
        if source.numel()
        for part in zip(_bytes_of(target).split(COPIED), _bytes_of(source).split(COPIED), strict=True)
    ]
    if not parts:
        return
    device = targets[0].device
    # What used the same memory before may still be running.
    ready = torch.cuda.current_stream(device).record_event()

    def copy(own: Sequence[tuple[Tensor, Tensor]]) -> None:
        pinned = torch.empty(COPIED, dtype=torch.uint8, pin_memory=True)
        stream = torch.cuda.Stream(device)
        stream.wait_event(ready)
        with torch.cuda.stream(stream):
            for target, source in own:
                target.copy_(pinned[: len(source)].copy_(source), non_blocking=True)
                stream.synchronize()

    list(map_ahead(copy, [parts[start::COPYING] for start in range(COPYING)], COPYING))


def _bytes_of(tensor: Tensor) -> Tensor:
    """The content of a tensor as uint8 [bytes]; that of a contiguous one is shared."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)

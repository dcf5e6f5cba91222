"""Copies between a GPU and main memory that hold up neither the GPU nor whoever queues its work.

A copy from or to memory that is not pinned would wait for all that is queued on the GPU.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

from interp.runtime.prefetch import map_ahead

T = TypeVar("T")
COPIED = 2**24
"""Bytes of pinned memory through which large tensors are copied, part by part."""
COPYING = 4
"""Number of threads that copy large tensors to a GPU."""


def to_device_async(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device. A copy to a GPU is queued behind earlier work, and the caller does not wait for it."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def gather_async(parts: Sequence[Tensor], device: torch.device) -> Tensor:
    """Join tensors [n_i, ...] of one dtype, at least one, to [sum of n_i, ...] on a device, as by `to_device_async`.

    For a GPU they are joined in the pinned memory from which they are copied, which saves a copy in main memory.
    """
    if device.type != "cuda" or parts[0].is_cuda:
        return torch.cat(list(parts)).to(device)
    shape = (sum(map(len, parts)), *parts[0].shape[1:])
    pinned = torch.empty(shape, dtype=parts[0].dtype, pin_memory=True)
    return torch.cat(list(parts), out=pinned).to(device, non_blocking=True)


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
    """Contiguous copies on a GPU of tensors in main memory, made by several threads through pinned memory.

    Returns when all are there. A single thread would take four times as long to read the weights of a file.
    """
    copies = [torch.empty(tensor.shape, dtype=tensor.dtype, device=device) for tensor in tensors]
    parts = [
        part
        for target, source in zip(copies, tensors, strict=True)
        if source.numel()
        for part in zip(bytes_of(target).split(COPIED), bytes_of(source).split(COPIED), strict=True)
    ]
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
    return copies


def parts_on_host(content: Tensor) -> Iterator[Tensor]:
    """Yield a tensor uint8 [n] on a GPU part by part in main memory; each part is valid until the next one.

    The caller waits for each copy, but not for what is queued on the GPU: `content` must have been computed.
    """
    pinned = torch.empty(min(COPIED, len(content)), dtype=torch.uint8, pin_memory=True)
    beside = torch.cuda.Stream(content.device)
    for part in content.split(COPIED):
        with torch.cuda.stream(beside):
            copied = pinned[: len(part)].copy_(part, non_blocking=True)
        beside.synchronize()
        yield copied


def bytes_of(tensor: Tensor) -> Tensor:
    """The content of a tensor as uint8 [bytes]; that of a contiguous one is shared."""
    values = tensor.detach().contiguous().reshape(-1)
    # torch cannot view some empty tensors as bytes, because of their strides.
    return values.view(torch.uint8) if len(values) else values.new_empty(0, dtype=torch.uint8)

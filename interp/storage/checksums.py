"""Digests of weights, images and processors: they depend on content, not on location."""

import json
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.runtime.prefetch import map_ahead

THREADS = 8
"""Number of threads that hash weights and images."""
COPIED = 2**24
"""Bytes that are copied from a GPU at a time."""


def weights_fingerprint(model: Any) -> str:
    """Hexadecimal hash of a model's weights and of their names."""
    return named_digest(model.state_dict(), 16)


def inputs_digests(processor: Any, images: Iterable[str]) -> dict[str, str]:
    """Hashes of what answers depend on besides weights and wordings: image files, and the preparation of inputs.

    An image that cannot be read counts as empty, because whoever needs the image reports it.
    """
    template = getattr(processor, "chat_template", None) or processor.tokenizer.chat_template
    prepared = [processor.image_processor.to_json_string(), json.dumps(template, sort_keys=True)]
    contents = list(map_ahead(_file_digest, dict.fromkeys(images), THREADS, THREADS))
    return {
        "image_contents": joined_digest(contents).hex()[:32],
        "processor": joined_digest(text.encode() for text in prepared).hex()[:32],
    }


def _file_digest(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file_digest(file, lambda: blake2b(digest_size=32)).digest()
    except OSError:
        return b""


def named_digest(tensors: Mapping[str, Tensor], size: int) -> str:
    """Hexadecimal hash of `size` bytes of tensors and their names, in the order given."""
    digest = blake2b(digest_size=size)
    for name, part in zip(tensors, tensor_digests(tensors.values()), strict=True):
        digest.update(name.encode() + part)
    return digest.hexdigest()


def tensor_digests(tensors: Iterable[Tensor]) -> list[bytes]:
    """The `tensor_digest` of each tensor, computed by several threads; tied weights are hashed once."""
    given = list(tensors)
    for device in {tensor.device for tensor in given if tensor.is_cuda}:
        # Once for all, because to wait for what is queued meanwhile would take as long as that takes.
        torch.cuda.synchronize(device)
    places = [(tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()) for tensor in given]
    unique = dict(zip(places, given, strict=True))
    # Few wait at a time, because a process that ends while it hashes finishes those that wait.
    digests = map_ahead(_digest, unique.values(), THREADS, THREADS)
    found = dict(zip(unique, digests, strict=True))
    return [found[place] for place in places]


def tensor_digest(tensor: Tensor) -> bytes:
    """Digest of a tensor's data type, shape and bytes."""
    return tensor_digests([tensor])[0]


def _digest(tensor: Tensor) -> bytes:
    """The `tensor_digest` of a tensor that nothing still has to compute."""
    values = tensor.detach().contiguous().reshape(-1)
    if tensor.is_cuda and not tensor.is_contiguous():
        torch.cuda.current_stream(tensor.device).synchronize()
    digest = blake2b(digest_size=32)
    kind = f"{tensor.dtype} {tuple(tensor.shape)}".encode()
    # As `joined_digest` of the two.
    digest.update(len(kind).to_bytes(8, "little") + kind + values.nbytes.to_bytes(8, "little"))
    # torch cannot view some empty tensors as bytes, because of their strides.
    for part in _parts(values.view(torch.uint8)) if len(values) else ():
        digest.update(part)
    return digest.digest()


def _parts(content: Tensor) -> Iterator[memoryview]:
    """The bytes uint8 [n] of a tensor, from a GPU in parts that are copied beside what is queued there."""
    if not content.is_cuda:
        yield content.cpu().numpy().data
        return
    # A copy to memory that is not pinned would hold up whoever launches work meanwhile.
    pinned = torch.empty(min(COPIED, len(content)), dtype=torch.uint8, pin_memory=True)
    beside = torch.cuda.Stream(content.device)
    for part in content.split(COPIED):
        with torch.cuda.stream(beside):
            copied = pinned[: len(part)].copy_(part, non_blocking=True)
        beside.synchronize()
        yield copied.numpy().data


def joined_digest(parts: Iterable[bytes | memoryview]) -> bytes:
    """Digest of parts in sequence, each preceded by its length."""
    digest = blake2b(digest_size=32)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()

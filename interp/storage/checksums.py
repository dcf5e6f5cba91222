"""Digests of weights, images and processors: they depend on content, not on location."""

import json
from collections.abc import Iterable, Mapping
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.runtime.async_copies import bytes_of, parts_on_host
from interp.runtime.prefetch import map_ahead

THREADS = 8
"""Number of threads that hash weights and images."""


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
    content = bytes_of(tensor)
    if tensor.is_cuda and not tensor.is_contiguous():
        torch.cuda.current_stream(tensor.device).synchronize()
    digest = blake2b(digest_size=32)
    kind = f"{tensor.dtype} {tuple(tensor.shape)}".encode()
    # As `joined_digest` of the two.
    digest.update(len(kind).to_bytes(8, "little") + kind + len(content).to_bytes(8, "little"))
    for part in parts_on_host(content) if content.is_cuda else (content.cpu(),):
        digest.update(part.numpy().data)
    return digest.digest()


def joined_digest(parts: Iterable[bytes | memoryview]) -> bytes:
    """Digest of parts in sequence, each preceded by its length."""
    digest = blake2b(digest_size=32)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()

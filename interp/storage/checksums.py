"""Digests of weights, images and processors: they depend on content, not on location."""

import json
from collections.abc import Iterable, Mapping
from hashlib import blake2b, file_digest
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from interp.runtime.prefetch import map_ahead

THREADS = 8
"""Number of threads that hash weights and images."""
_COPYING = Lock()
"""Held while a tensor is copied from a GPU: threads that wait for a copy keep their cores busy."""


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
    places = [(tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()) for tensor in given]
    unique = dict(zip(places, given, strict=True))
    # Few wait at a time, because a process that ends while it hashes finishes those that wait.
    digests = map_ahead(tensor_digest, unique.values(), THREADS, THREADS)
    found = dict(zip(unique, digests, strict=True))
    return [found[place] for place in places]


def tensor_digest(tensor: Tensor) -> bytes:
    """Digest of a tensor's data type, shape and bytes."""
    values = _in_main_memory(tensor.detach()).contiguous().reshape(-1)
    # torch cannot view some empty tensors as bytes, because of their strides.
    content = values.view(torch.uint8).numpy().data if len(values) else b""
    return joined_digest([f"{tensor.dtype} {tuple(tensor.shape)}".encode(), content])


def _in_main_memory(tensor: Tensor) -> Tensor:
    """The tensor, copied from a GPU without holding up what is queued there afterwards."""
    if not tensor.is_cuda:
        return tensor.cpu()
    beside = torch.cuda.Stream(tensor.device)
    beside.wait_stream(torch.cuda.current_stream(tensor.device))
    with _COPYING, torch.cuda.stream(beside):
        return tensor.cpu()


def joined_digest(parts: Iterable[bytes | memoryview]) -> bytes:
    """Digest of parts in sequence, each preceded by its length."""
    digest = blake2b(digest_size=32)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()

"""Digests of weights, images and processors: by what they hold, wherever they are."""

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

THREADS = 8
"""That hash weights and images."""


def weights_fingerprint(model: Any) -> str:
    """A hash of the model's weights and of their names."""
    return named_digest(model.state_dict(), 16)


def inputs_digests(processor: Any, images: Iterable[str]) -> dict[str, str]:
    """Hashes of what answers rest on beside weights and wordings: contents of image files, and how both are prepared.

    An image that can not be read counts as empty: whoever needs it says so.
    """
    template = getattr(processor, "chat_template", None) or processor.tokenizer.chat_template
    prepared = [processor.image_processor.to_json_string(), json.dumps(template, sort_keys=True)]
    with ThreadPoolExecutor(THREADS) as pool:
        contents = list(pool.map(_file_digest, dict.fromkeys(images)))
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
    """A hash of `size` bytes, hexadecimal, of tensors and their names in the order given."""
    digest = blake2b(digest_size=size)
    for name, part in zip(tensors, tensor_digests(tensors.values()), strict=True):
        digest.update(name.encode() + part)
    return digest.hexdigest()


def tensor_digests(tensors: Iterable[Tensor]) -> list[bytes]:
    """`tensor_digest` of each, by several threads."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(tensor_digest, tensors))


def tensor_digest(tensor: Tensor) -> bytes:
    """Digest of a tensor's dtype, shape and bytes."""
    values = tensor.detach().cpu().contiguous().reshape(-1)
    # Empty tensors may have strides of which torch takes no view.
    content = values.view(torch.uint8).numpy().data if len(values) else b""
    return joined_digest([f"{tensor.dtype} {tuple(tensor.shape)}".encode(), content])


def joined_digest(parts: Iterable[bytes | memoryview]) -> bytes:
    """Digest of parts one behind the other, each with its length."""
    digest = blake2b(digest_size=32)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.digest()

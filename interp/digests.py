"""Digests of tensors: by what they hold, wherever they are."""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor

THREADS = 8
"""That hash the weights."""


def weights_fingerprint(model: Any) -> str:
    """A hash of the model's weights and of their names."""
    return named_digest(model.state_dict(), 16)


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

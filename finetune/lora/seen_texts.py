"""Recognizing training texts without storing them.

Questions are short, so anyone with the record can guess a question and test the guess. This cannot be prevented, only
made expensive and limited. scrypt (RFC 7914) takes a millisecond per guess, a thousand times as long as a plain hash. A
salt makes a guess useless for other adapters and hides which texts two adapters have in common. Published copies
contain no hashes at all (`finetune.publishing.push`).
"""

import os
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from hashlib import blake2b, scrypt

import numpy as np
from numpy.typing import NDArray

COST = 256
"""The parameter N of scrypt: 0.25 MiB of memory and 1.2 ms on one core per hash."""


def text_hashes(texts: Iterable[str]) -> list[str]:
    """Hashes of the different texts in ascending order, each as `salt$hash`; the salt is a digest of all texts."""
    plain = sorted({_normalized(text) for text in texts})
    salt = blake2b("\n".join(plain).encode(), digest_size=8).hexdigest()
    return sorted(_hashes(plain, salt))


def shown(texts: Sequence[str], known: Collection[str]) -> NDArray[np.bool_]:
    """Whether each text is among those behind the hashes `known`, of one or several adapters: bool [n]."""
    plain = [_normalized(text) for text in texts]
    different = sorted(set(plain))
    found: set[str] = set()
    for salt in sorted({salt_of(entry) for entry in known}):
        hashes = _hashes(different, salt)
        found |= {text for text, entry in zip(different, hashes, strict=True) if entry in known}
    return np.array([text in found for text in plain], dtype=bool)


def salt_of(entry: str) -> str:
    """The salt of a hash; empty for hashes of older adapters, which had none."""
    return entry.rpartition("$")[0]


def _normalized(text: str) -> str:
    return text.strip().lower()


def _hashes(texts: Sequence[str], salt: str) -> list[str]:
    # scrypt releases the lock of the interpreter.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda text: text_hash(text, salt), texts))


@lru_cache(maxsize=2**16)
def text_hash(text: str, salt: str = "") -> str:
    """`salt$` and 16 hex digits of scrypt of the text, stripped and in lower case; of blake2b if there is no salt."""
    content = _normalized(text).encode()
    if not salt:
        return blake2b(content, digest_size=8).hexdigest()
    return f"{salt}${scrypt(content, salt=salt.encode(), n=COST, r=8, p=1, dklen=8).hex()}"

"""Recognising a training text again without keeping it.

A question is short, and who guesses it can test the guess: nothing that the record alone is enough to check prevents
that. What can be had is a price and a bound. scrypt (RFC 7914) takes a millisecond a guess, a thousand times a plain
hash's; and a salt makes a guess worth nothing for another adapter, whose hashes do not show either which texts the two
have in common. Published copies hold no hashes at all (finetune.publishing.push).
"""

import os
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from hashlib import blake2b, scrypt

import numpy as np
from numpy.typing import NDArray

COST = 256
"""scrypt's N: a quarter of a MiB, and 1.2 ms on one core."""


def text_hashes(texts: Iterable[str]) -> list[str]:
    """Hashes of the different texts, ascending, each `salt$hash`; the salt is a digest of all of them."""
    plain = sorted({_plain(text) for text in texts})
    salt = blake2b("\n".join(plain).encode(), digest_size=8).hexdigest()
    return sorted(_hashes(plain, salt))


def shown(texts: Sequence[str], known: Collection[str]) -> NDArray[np.bool_]:
    """Whether each text is among those that the hashes `known` were made of, of one adapter or several: bool [n]."""
    plain = [_plain(text) for text in texts]
    different = sorted(set(plain))
    found: set[str] = set()
    for salt in sorted({salt_of(entry) for entry in known}):
        hashes = _hashes(different, salt)
        found |= {text for text, entry in zip(different, hashes, strict=True) if entry in known}
    return np.array([text in found for text in plain], dtype=bool)


def salt_of(entry: str) -> str:
    """The salt of a hash; empty for those of adapters of before there was one."""
    return entry.rpartition("$")[0]


def _plain(text: str) -> str:
    return text.strip().lower()


def _hashes(texts: Sequence[str], salt: str) -> list[str]:
    # scrypt lets other threads run.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda text: text_hash(text, salt), texts))


@lru_cache(maxsize=2**16)
def text_hash(text: str, salt: str = "") -> str:
    """`salt$` and 16 hex digits of scrypt of the text, outer blanks and case apart; without a salt, of blake2b."""
    content = _plain(text).encode()
    if not salt:
        return blake2b(content, digest_size=8).hexdigest()
    return f"{salt}${scrypt(content, salt=salt.encode(), n=COST, r=8, p=1, dklen=8).hex()}"

"""Keys that name questions and patients in artifacts without telling who or what they are.

A key is a hash whose salt is a hash of all the wordings, ids and image names that were asked. The same data give the
same keys, so that two runs on them can be compared question by question, and without the data no key can be guessed.
"""

from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import pandas as pd

KEY_BYTES = 8
"""Length of a key; two of a million questions have the same one once in 40 million data sets."""


class ItemKeys(NamedTuple):
    """The keys of the n rows of a prompt table, hexadecimal."""

    question: list[str]
    """[n] key of the row's question; all its wordings share it."""
    patient: list[str]
    """[n] key of the row's patient, or of its image where patients are unknown."""


def item_keys(prompts: pd.DataFrame) -> ItemKeys:
    """The keys of the rows of a prompt table (`interp.questions.tables.prompt_table`).

    They depend on ids, patients, image names and wordings, not on where the images are stored.
    """
    salt = blake2b(digest_size=32, person=b"item salt")
    for row in zip(prompts["id"], prompts["patient"], prompts["image"], prompts["text"], strict=True):
        name, patient, image, text = row
        for part in (name, patient, Path(image).name, text):
            content = str(part).encode()
            salt.update(len(content).to_bytes(8, "little") + content)
    secret = salt.digest()

    def key(kind: bytes, name: object) -> str:
        return blake2b(str(name).encode(), digest_size=KEY_BYTES, key=secret, person=kind).hexdigest()

    return ItemKeys(
        [key(b"question", name) for name in prompts["id"]], [key(b"patient", name) for name in prompts["patient"]]
    )

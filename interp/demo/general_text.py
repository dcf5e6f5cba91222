"""General text that every installation carries, to train and judge SAEs on more than questions about radiographs.

It is Python's own reference (`pydoc_data.topics`), the long descriptions of the installed packages, and the docstrings
of the scientific ones. So nothing is downloaded, but another installation gives other text.
"""

import ast
import random
import zlib
from collections.abc import Iterable, Iterator
from importlib.metadata import distributions
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

DOCUMENTED = ("numpy", "pandas", "scipy", "statsmodels", "matplotlib")
"""Packages whose docstrings are read."""
SHORTEST, LONGEST = 200, 20_000
"""Documents of fewer characters are left out, and longer ones are cut."""
CHARACTERS = 4_000_000
"""About as many characters of all documents are kept."""
PASSAGE = 96
"""Tokens per passage, without the first token of every prompt."""
HELD_OUT = 10
"""One document in so many is held out from training."""


class Passages(NamedTuple):
    """General text in passages of at most 1 + PASSAGE tokens, each of which begins with the tokenizer's first token."""

    train: list[list[int]]
    """Token ids of the passages that SAEs are trained on."""
    held_out: list[list[int]]
    """Token ids of the passages of other documents."""


def general_documents() -> list[str]:
    """Different documents of this installation in random order, each with at least SHORTEST characters."""
    found = (document.strip()[:LONGEST] for document in (*_reference(), *_descriptions(), *_docstrings()))
    documents = list(dict.fromkeys(document for document in found if len(document) >= SHORTEST))
    random.Random(0).shuffle(documents)
    ends = accumulate(map(len, documents))
    return [document for document, end in zip(documents, ends, strict=True) if end <= CHARACTERS]


def passages(tokenizer: Any, documents: Iterable[str]) -> Passages:
    """Cut documents into passages; a document's own text decides whether it is held out."""
    parts = Passages([], [])
    first = [tokenizer.bos_token_id]
    for document in documents:
        ids = tokenizer(document, add_special_tokens=False, verbose=False)["input_ids"]
        held_out = zlib.crc32(document.encode()) % HELD_OUT == 0
        pieces = [first + ids[start : start + PASSAGE] for start in range(0, len(ids), PASSAGE)]
        (parts.held_out if held_out else parts.train).extend(piece for piece in pieces if len(piece) > 2)
    return parts


def _reference() -> Iterator[str]:
    from pydoc_data.topics import topics

    yield from topics.values()


def _descriptions() -> Iterator[str]:
    for found in sorted(distributions(), key=lambda d: d.metadata["Name"] or ""):
        # The long description is the body of the file, after its fields.
        yield (found.read_text("METADATA") or "").partition("\n\n")[2]


def _docstrings() -> Iterator[str]:
    for package in DOCUMENTED:
        spec = find_spec(package)
        for root in (spec.submodule_search_locations or []) if spec is not None else []:
            for path in sorted(Path(root).rglob("*.py")):
                if "tests" not in path.parts:
                    yield from _docstrings_of(path)


def _docstrings_of(path: Path) -> Iterator[str]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, kinds) and (text := ast.get_docstring(node)):
            yield text

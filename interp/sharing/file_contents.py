"""Reads all texts and images in a file of any kind, so that `scrub` can search them for private content."""

import base64
import binascii
import csv
import html
import io
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from interp.storage.json_files import parse_json

IMAGE_ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".webp"),
    *(".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".avif", ".avifs", ".heic", ".dcm", ".dicom", ".dic", ".nii"),
)
TEXT_ENDINGS = (
    ".md",
    ".txt",
    ".html",
    ".htm",
    ".svg",
    ".xml",
    ".yaml",
    ".yml",
    ".log",
    ".toml",
    ".jinja",
    ".j2",
    ".py",
    ".tex",
)
_DATA_BLOCK = re.compile(r"<script type=\"application/json\">(.*?)</script>", re.DOTALL)
"""The rows that a report's page keeps for its script; JSON escapes what HTML does not."""
TOKEN_IDS = frozenset({"token_ids", "input_ids"})
"""Keys and columns whose numbers are tokens of a text, as `interp export-activations --include-text` writes them."""
CACHE_OF_LATENTS = frozenset({"locations", "activations", "tokens"})
"""Tensors of delphi's cache of latents, whose `tokens` are those of the wordings."""
_DATA_URI = re.compile(r"data:image/[\w.+-]+;base64,\s*([A-Za-z0-9+/=\s]+)")


class Contents(NamedTuple):
    """The contents of a file."""

    texts: list[str]
    """Strings, cells, names and metadata; HTML both escaped and unescaped."""
    fields: set[str]
    """Names of the columns or keys that hold text, in lower case."""
    images: int = 0
    """Number of images, the file itself or inside it; figures drawn by matplotlib do not count."""
    tokens: bool = False
    """Whether the file holds the tokens of an image, as `--image-cache` stores them."""
    token_ids: bool = False
    """Whether the file holds a text as numbers of tokens, which the model's tokenizer turns back into the text."""
    opaque: bool = False
    """Whether the file is damaged or of a kind that cannot be read."""


def contents_of(path: Path) -> Contents:
    """Read a file of any kind. A file that cannot be read is opaque; its contents never raise an error."""
    kind = path.suffix.lower()
    with path.open("rb") as file:
        start = file.read(132)
    if kind in IMAGE_ENDINGS or start[128:] == b"DICM" or start[:3] == b"\xff\xd8\xff":
        return Contents([], set(), images=1)
    if start[:8] == b"\x89PNG\r\n\x1a\n":
        return _png(path.read_bytes())
    read = _READERS.get(kind, _text if kind in TEXT_ENDINGS else None)
    try:
        return Contents([], set(), opaque=True) if read is None else read(path)
    # Libraries raise errors of any kind for damaged files; the owner has to check those.
    except Exception:
        return Contents([path.read_bytes().decode("utf-8", "ignore")], set(), opaque=True)


def _text(path: Path) -> Contents:
    text = path.read_text(encoding="utf-8")
    return Contents([text, html.unescape(text)], set(), images=_images_in(text))


def _html(path: Path) -> Contents:
    found = _text(path)
    for block in _DATA_BLOCK.findall(found.texts[0]):
        found.texts.extend(value for _, value in _strings(parse_json(block)))
    return found


def _json(path: Path) -> Contents:
    text = path.read_text(encoding="utf-8")
    lines = text.split("\n") if path.suffix.lower() == ".jsonl" else [text]
    found = Contents([], set())
    for line in lines:
        if line.strip():
            content = parse_json(line)
            found = found._replace(token_ids=found.token_ids or _has_token_ids(content))
            for key, value in _strings(content):
                found.texts.append(value)
                found.fields.add(key.lower())
                # A notebook stores output images as base64 under their media type.
                encoded = value if key.startswith("image/") else None
                found = found._replace(images=found.images + (_image_bytes(encoded) if encoded else _images_in(value)))
    return found


def _strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every string of a JSON document with its key, and every key as a string without one."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, list):
        for inside in value:
            yield from _strings(inside, key)
    elif isinstance(value, dict):
        for name, inside in value.items():
            yield "", name
            yield from _strings(inside, name)


def _has_token_ids(value: Any) -> bool:
    """Whether a JSON document has a list of numbers that is not empty under a key of TOKEN_IDS."""
    if isinstance(value, dict):
        return any((name in TOKEN_IDS and _is_ids(inside)) or _has_token_ids(inside) for name, inside in value.items())
    return isinstance(value, list) and any(map(_has_token_ids, value))


def _is_ids(value: Any) -> bool:
    """Whether a value is a list of integers, or of such lists, that is not empty."""
    return isinstance(value, list) and bool(value) and (isinstance(value[0], int) or _is_ids(value[0]))


def _table(path: Path) -> Contents:
    text = path.read_text(encoding="utf-8-sig")
    rows = list(csv.reader(io.StringIO(text, newline=""), delimiter="\t" if path.suffix == ".tsv" else ","))
    columns = zip(*rows, strict=False) if rows else []
    named = {column[0].strip().lower() for column in columns if not all(map(_is_number, column[1:]))}
    return Contents([cell for row in rows for cell in row], named)


def _is_number(cell: str) -> bool:
    try:
        float(cell or "0")
    except ValueError:
        return cell in ("True", "False")
    return True


def _parquet(path: Path) -> Contents:
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        metadata = [
            part.decode("utf-8", "ignore") for pair in (file.schema_arrow.metadata or {}).items() for part in pair
        ]
        table = file.read()
    found = Contents([*metadata, *table.column_names], set())
    for name in table.column_names:
        for value in table[name].unique().to_pylist() if _hashable(table[name].type) else table[name].to_pylist():
            for _, text in _strings(value.decode("utf-8", "ignore") if isinstance(value, bytes) else value):
                found.texts.append(text)
                found.fields.add(name.lower())
    return found


def _hashable(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_dictionary(kind))


def _safetensors(path: Path) -> Contents:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > path.stat().st_size:
            raise ValueError("a header longer than the file")
        header = parse_json(file.read(length).decode("utf-8"))
    texts = [text for _, text in _strings(header)]
    return Contents(
        texts,
        set(),
        tokens={"tokens", "digest"} <= set(header),
        token_ids=set(header) >= CACHE_OF_LATENTS or not TOKEN_IDS.isdisjoint(header),
    )


def _png(content: bytes) -> Contents:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
            picture.load()
            texts = [str(part) for pair in picture.info.items() for part in pair]
            texts += [str(value) for value in picture.getexif().values()]
            drawn = str(picture.info.get("Software", "")).startswith("Matplotlib")
    except Exception:
        return Contents([content.decode("utf-8", "ignore")], set(), images=1, opaque=True)
    return Contents(texts, set(), images=0 if drawn else 1)


def _images_in(text: str) -> int:
    """Number of images embedded in a text; figures drawn by matplotlib do not count."""
    return sum(_image_bytes(encoded) for encoded in _DATA_URI.findall(text))


def _image_bytes(encoded: str) -> int:
    """1 for a base64 image, 0 for a figure drawn by matplotlib."""
    try:
        content = base64.b64decode(encoded)
    except (binascii.Error, ValueError):
        return 1
    return _png(content).images


_READERS: dict[str, Callable[[Path], Contents]] = {
    ".json": _json,
    ".jsonl": _json,
    ".ipynb": _json,
    ".html": _html,
    ".csv": _table,
    ".tsv": _table,
    ".parquet": _parquet,
    ".safetensors": _safetensors,
}

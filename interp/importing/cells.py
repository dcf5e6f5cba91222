"""The cells of a table: texts, lists in every way that tables write them, wordings, images and flags."""

import base64
import io
import re
import tokenize
from ast import literal_eval
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from interp.questions.answers import answer_text
from interp.storage.json_files import parse_json

MISSING_WORDS = frozenset({"nan", "<na>", "nat", "null", "none", "na", "n/a"})
"""Texts that mean an empty cell in every column but that of answers, in lower case."""

UNREADABLE = object()
"""In place of a list that begins like one of texts, but is not complete."""

NO_TEXT = "{}"
"""In place of an answer that is an object without text; `Question` refuses it, as it has no letter or digit."""

_ARRAY = r"(?:(?:np\.|numpy\.)?array\s*\(\s*)?\["
_LIST = re.compile(rf"\s*(?:{_ARRAY}\s*(?:['\"\\\[{{(\d\]-]|np\.|array|None|nan|True|False)|\(\s*['\"])")
_LIST_OF_TEXTS = re.compile(rf"{_ARRAY}\s*(?:['\"\\]|np\.str_)")
_BASE64_STARTS = ("data:image/", "iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR", "SUkq", "TU0A")
"""How PNG, JPEG, GIF, WebP and TIFF files begin in base64, or as a data URL."""
_PLACEHOLDER = re.compile(r"<(?:image|start_of_image|image_soft_token)>")
_LIST_MARK = re.compile(r"^(?:[-*•]|\d+[.)])\s+")
_TEXT_FIELDS = ("text", "paraphrase", "question", "paraphrased_question")
"""Fields of an object that hold a wording."""
_SHORTEST_BASE64 = 100
"""Shortest text that may be an image in base64 [characters]; paths may begin like one."""
_DEEPEST = 8
"""Deepest nesting of a list in a cell."""
_CLOSED_FLAGS = frozenset(
    ("true", "1", "yes", "y", "closed", "close", "close ended", "closed ended", "yes no", "binary", "verify")
)
_OPEN_FLAGS = frozenset(("false", "0", "no", "n", "open", "open ended", "choose", "query"))
_CONSTRUCTORS = frozenset({"array", "list", "tuple", "set", "str_", "bool_", "int64", "int32", "float64", "float32"})
_CLOSING = {"[": "]", "(": ")", "{": "}"}
_CONSTANTS = {"None": None, "nan": None, "null": None, "True": True, "True_": True, "False": False, "False_": False}
_IGNORED = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.COMMENT, tokenize.ENDMARKER)


class SeveralImages(NamedTuple):
    """In place of an image: a row names more than one."""

    number: int
    """How many images the row names."""


class EmbeddedImage(NamedTuple):
    """An image that a table holds itself, as parquet files and data sets on the Hugging Face hub do."""

    content: bytes
    """The bytes of the image file."""
    path: str | None
    """The name or path that the table gives beside them; None if it gives none."""


def text_of(value: Any) -> str | None:
    """A value as text; None for a missing one, an object and a list of several. A list of one is its element.

    Whole numbers lose their decimal point, since ids are often stored as floats, and a placeholder of the image is
    left out, as the model gets the image itself.
    """
    value = single(value)
    if value is None or isinstance(value, dict | list | tuple):
        return None
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = re.sub(r"^(\d+)\.0$", r"\1", _PLACEHOLDER.sub(" ", str(value)).strip())
    return None if text.lower() in MISSING_WORDS or not text else text


def single(value: Any) -> Any:
    """The element of a list of one, in a cell or written into it as text; every other value as it is."""
    listed = listed_in(value)
    return listed[0] if isinstance(listed, list) and len(listed) == 1 else value


def listed_in(value: Any) -> Any:
    """The list that a cell holds, or that is written into it as JSON, by Python or by numpy; None if it is no list.

    numpy prints lists without commas (`['a' 'b']`), possibly over several lines. UNREADABLE if a text begins like a
    list of texts, but is cut off or damaged.
    """
    if isinstance(value, list | tuple):
        return list(value)
    if not isinstance(value, str) or not _LIST.match(value):
        return None
    text = value.strip()
    try:
        found = parse_json(text)
    except ValueError:
        found = _parse_printed(text)
    if isinstance(found, list):
        return found
    return UNREADABLE if _LIST_OF_TEXTS.match(text) else None


def wordings_in(value: Any) -> Any:
    """The wordings in a cell, as a list of texts or objects: a list, texts separated by `|`, or a single text.

    Semicolons and line breaks separate wordings too, if each part is a question. UNREADABLE as for `listed_in`.
    """
    listed = listed_in(value)
    while isinstance(listed, list) and len(listed) == 1 and isinstance(listed[0], list):
        listed = listed[0]
    if listed is not None:
        return listed
    if text_of(value) is None:
        return []
    if not isinstance(value, str):
        return [value]
    if value.lstrip().startswith("{") and isinstance(written := _parse_printed(value.strip()), dict):
        return [written]
    for separator in ("|", ";", "\n"):
        parts = [part.strip() for part in value.split(separator) if part.strip()]
        if len(parts) > 1 and (separator == "|" or all(part.endswith(("?", "؟", "?")) for part in parts)):
            return [_LIST_MARK.sub("", part) for part in parts]
    return [value]


def texts_in(value: Any) -> list[str]:
    """The wordings in a cell as texts; empty for an empty cell, and a list that cannot be read is one text."""
    wordings = wordings_in(value)
    wordings = [value] if wordings is UNREADABLE else wordings
    return [text for wording in wordings if (text := wording_text(wording)) is not None]


def wording_text(wording: Any) -> str | None:
    """The text of a wording, which may be a field of an object; None if it has none."""
    if isinstance(wording, dict):
        wording = next((wording[name] for name in _TEXT_FIELDS if wording.get(name) is not None), None)
    return text_of(wording)


def image_in(value: Any) -> str | EmbeddedImage | SeveralImages | None:
    """The image of a cell: a path, or the image itself; None if there is none. Several images are not shown."""
    listed = listed_in(value)
    if isinstance(listed, list):
        images = [image for image in map(image_in, listed) if image is not None]
        return images[0] if len(images) == 1 else SeveralImages(len(images)) if images else None
    if isinstance(value, dict):
        content, path = _decoded(value.get("bytes")), text_of(value.get("path"))
        return EmbeddedImage(content, path) if isinstance(content, bytes) and content else path
    value = _decoded(value)
    if isinstance(value, bytes):
        return EmbeddedImage(value, None) if value else None
    if isinstance(value, str) and value.lstrip().startswith("{"):
        written = _parse_printed(value.strip())
        return image_in(written) if isinstance(written, dict) else text_of(value)
    text = text_of(value)
    parts = [part for part in re.split(r"\s*[|;]\s*|\s*,\s*(?=\S+\.\w{2,5}(?:\s*,|$))", text or "") if part]
    if len(parts) > 1 and all(re.search(r"\.\w{2,5}$", part) for part in parts):
        return SeveralImages(len(parts))
    return text


def _decoded(value: Any) -> Any:
    """The bytes of an image that is written as base64 text; every other value as it is."""
    if isinstance(value, str) and len(value) > _SHORTEST_BASE64 and value.startswith(_BASE64_STARTS):
        try:
            return base64.b64decode(value.partition(",")[2] if value.startswith("data:") else value, validate=False)
        except ValueError:
            return value
    return value


def answer_in(value: Any) -> str | None:
    """The answer in a cell as text (`interp.questions.answers.answer_text`); "none" is one, an empty cell is not."""
    listed = listed_in(value)
    if isinstance(listed, list):
        value = listed
    elif isinstance(value, str) and value.lstrip().startswith("{"):
        written = _parse_printed(value.strip())
        value = written if isinstance(written, dict) else value
    text = answer_text(value)
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    if isinstance(text, dict | list):
        return NO_TEXT
    return None if text is None else str(text).strip() or None


def flag_in(value: Any, type_: Any = None) -> bool | None:
    """Whether a row says that its question asks for yes or no, in any of the ways that data sets write it.

    `value` is the cell of a flag, and `type_` that of the question type, which says so ("closed") in some data sets.
    VQA-RAD's CLOSED includes choices, which `interp.questions.answers.normalize_answer` tells apart. None if both cells
    are empty or say something else.
    """
    for text in (text_of(value), text_of(type_)):
        flag = re.sub(r"[_/-]", " ", (text or "").lower()).removesuffix(".0")
        if flag in _CLOSED_FLAGS:
            return True
        if flag in _OPEN_FLAGS:
            return False
    return None


def holds_labels(values: Iterable[Any]) -> bool:
    """Whether a column that may hold wordings holds only numbers or labels ("2", "v1", "baseline") in their place."""
    label = r"[\d\W_]*(?:v|var|variant|version|para|paraphrase|q|original|baseline|true|false|formal|casual)?[\d\W_]*"
    found = False
    for value in values:
        text = None if isinstance(value, list | dict) else text_of(value)
        if text is not None and not (any(map(str.isalnum, text)) and re.fullmatch(label, text.lower())):
            return False
        found = found or text is not None
    return found


def _parse_printed(text: str) -> Any:
    """A list or dict as Python or numpy prints it; None if `text` is nothing of the kind."""
    try:
        tokens = [t for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type not in _IGNORED]
        value, end = _value(tokens, 0, _DEEPEST)
        return value if end == len(tokens) else None
    except (tokenize.TokenError, SyntaxError, ValueError, LookupError, TypeError, MemoryError, RecursionError):
        return None


def _value(tokens: Sequence[tokenize.TokenInfo], at: int, depth: int) -> tuple[Any, int]:
    """The value that begins at a token, and the position after it. Raises ValueError or LookupError for anything else.

    Not by `ast.literal_eval` as a whole, which joins the neighbours in `['a' 'b']` to one text.
    """
    if not depth:
        raise ValueError("too deep")
    token = tokens[at]
    if token.type in (tokenize.STRING, tokenize.NUMBER):
        return literal_eval(token.string), at + 1
    if token.string == "-":
        return -literal_eval(tokens[at + 1].string), at + 2
    if token.string in _CLOSING:
        return _bracket(tokens, at + 1, _CLOSING[token.string], depth - 1)
    while tokens[at + 1].string == ".":
        at += 2
    name = tokens[at].string
    if name in _CONSTRUCTORS and tokens[at + 1].string == "(":
        inside, end = _bracket(tokens, at + 2, ")", depth - 1)
        return inside[0], end
    return _CONSTANTS[name], at + 1


def _bracket(tokens: Sequence[tokenize.TokenInfo], at: int, closing: str, depth: int) -> tuple[Any, int]:
    """What is in brackets, as a list or a dict, with or without commas; settings such as `dtype=object` are skipped."""
    items: list[Any] = []
    keys: list[Any] = []
    while tokens[at].string != closing:
        if tokens[at].string == ",":
            at += 1
        elif tokens[at].type == tokenize.NAME and tokens[at + 1].string == "=":
            at += 3
            while tokens[at].string not in (",", closing):
                at += 1
        else:
            value, at = _value(tokens, at, depth)
            if closing == "}" and tokens[at].string == ":":
                keys.append(value)
                value, at = _value(tokens, at + 1, depth)
            items.append(value)
    return (dict(zip(keys, items, strict=True)) if keys or (closing == "}" and not items) else items), at + 1

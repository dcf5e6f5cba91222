"""Reading JSON that others wrote: as it is, or refused with one error."""

import json
from pathlib import Path
from typing import Any

from interp.errors import InputError


def parse_json(text: str) -> Any:
    """What a JSON text holds. Raises ValueError, of which no message quotes the text, for what can not be read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


NEWEST = {"evaluation.json": 2, "gatescope.json": 1, "ablation.json": 1, "grounding.json": 1, "study.json": 1}
"""Name of a file of results -> the newest version of its schema that is read here."""


def refuse_newer(path: Path, version: int, newest: int) -> None:
    """Raise InputError for a file of a newer schema than is read here."""
    if version > newest:
        raise InputError(f"{path}: schema version {version}, but this GateScope reads up to {newest}. Upgrade it.")


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object that a file holds. Raises InputError if it is not there, not UTF-8, not JSON or no object."""
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: can not be read ({error.strerror}).") from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}).") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: found a {type(content).__name__}, expected an object.")
    return content

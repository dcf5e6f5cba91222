"""Writing JSON atomically, and reading JSON that others wrote with one error for all its faults."""

import json
import math
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from interp.runtime.errors import InputError
from interp.storage.atomic import write_text


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON atomically."""
    write_text(path, json_text(content))


def json_text(content: Any) -> str:
    """Content as `write_json` writes it."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def json_ready(value: Any) -> Any:
    """A value as JSON can hold it: records become objects, floats six significant digits, undefined ones None."""
    if hasattr(value, "_asdict"):
        return json_ready(value._asdict())
    if is_dataclass(value) and not isinstance(value, type):
        return json_ready(asdict(value))
    if isinstance(value, dict):
        return {key: json_ready(inside) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(inside) for inside in value]
    if isinstance(value, float):
        return significant(value) if math.isfinite(value) else None
    return value


def significant(value: float) -> float:
    """A number to the six significant digits that artifacts hold."""
    return float(f"{value:.6g}")


def parse_json(text: str) -> Any:
    """What a JSON text holds. Raises ValueError if it cannot be read; no message quotes the text."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises InputError if the file is absent, not UTF-8, not JSON, or not an object."""
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}).") from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}).") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: found a {type(content).__name__}, expected an object.")
    return content


def refuse_newer(path: Path, version: Any, newest: int) -> None:
    """Raise InputError if a file's schema version is no version, or above `newest`, the highest that is read here."""
    if type(version) is not int or version < 1:
        raise InputError(f"{path}: schema_version is {version!r}, expected a whole number from 1 to {newest}.")
    if version > newest:
        raise InputError(f"{path}: schema version {version}, but this GateScope reads up to {newest}. Upgrade it.")

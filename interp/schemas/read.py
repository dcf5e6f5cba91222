"""Reads artifacts: checks them against their schemas, and makes their texts safe to show."""

import re
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from interp.runtime.errors import InputError
from interp.storage.json_files import read_object, refuse_newer

Artifact = TypeVar("Artifact", bound=BaseModel)


def newest_version(kind: type[BaseModel]) -> int:
    """The version of an artifact's schema that this GateScope writes, which is the newest that it reads."""
    return int(kind.model_fields["schema_version"].default)


def read_artifact(path: Path, kind: type[Artifact]) -> Artifact:
    """Read an artifact whose schema is `kind`.

    Raises InputError, which names the file and the field, if the file is damaged, lacks a field, or has a newer schema.
    """
    return _validated(path, kind, read_object(path))


def read_shown(path: Path, kind: type[Artifact]) -> Artifact:
    """Read an artifact that will be shown and may come from someone else: `read_artifact` with `cleaned` texts."""
    return _validated(path, kind, cleaned(read_object(path)))


def _validated(path: Path, kind: type[Artifact], content: dict[str, Any]) -> Artifact:
    if "schema_version" in content:
        refuse_newer(path, content["schema_version"], newest_version(kind))
    return checked(path, kind, content)


def checked(path: Path, kind: type[Artifact], content: Any) -> Artifact:
    """Validate the content of `path`. Raises InputError, which names the first field that is not as expected."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "(root)"
        reason = first["msg"].removeprefix("Value error, ")
        raise InputError(
            f"{path}: field {field}: {reason}. Make it again with the command that wrote it, or remove it."
        ) from None


def cleaned(content: Any) -> Any:
    """JSON content without control characters, and with each path in its texts reduced to the last part.

    Artifacts hold no paths, but a model that was loaded by other means may be named by one.
    """
    if isinstance(content, str):
        return _clean(content)
    if isinstance(content, dict):
        return {_clean(key): cleaned(value) for key, value in content.items()}
    if isinstance(content, list):
        return [cleaned(value) for value in content]
    return content


_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_PATH = re.compile(r"(?<![\w.:/\\])(?:[A-Za-z]:[/\\]|~[/\\]|\.{1,2}[/\\]|[/\\])[^\s\"'<>]*[/\\]")


def _clean(text: str) -> str:
    return _CONTROL.sub("\ufffd", _PATH.sub("", text))

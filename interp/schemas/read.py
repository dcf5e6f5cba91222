"""Reading a record: checked, its texts fit to be shown, and what a newer version wrote refused."""

import math
import re
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from interp.runtime.errors import InputError
from interp.storage.json_files import read_object, refuse_newer

NEWEST = {"evaluation.json": 2, "gatescope.json": 1, "ablation.json": 1, "grounding.json": 1, "study.json": 1}
"""Name of a file of results -> the newest version of its schema that is read here."""


Model = TypeVar("Model", bound=BaseModel)


class Part(BaseModel):
    """A record or a part of one; fields that it does not name are passed over."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _undefined_is_null(cls, value: Any) -> Any:
        return None if isinstance(value, float) and not math.isfinite(value) else value


def read_record(path: Path, kind: type[Model]) -> Model:
    """Read one of these files, its texts `cleaned`.

    Raises InputError, naming file and field, for a file that is damaged, lacks a field, or is of a newer schema.
    """
    content = cleaned(read_object(path))
    version = content.get("schema_version")
    if isinstance(version, int):
        refuse_newer(path, version, NEWEST[path.name])
    return checked(path, kind, content)


def checked(path: Path, kind: type[Model], content: Any) -> Model:
    """`content`, read from `path`, as a record. Raises InputError naming the first field that is not as expected."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the whole"
        reason = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{path}: field {field}: {reason}. Write it again, or remove it.") from None


def cleaned(content: Any) -> Any:
    """JSON content whose texts are fit to be shown: no control characters, and of a path its last part alone.

    Artifacts hold no paths; a model that was loaded in another way might be named by one.
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

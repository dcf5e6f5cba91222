"""The base class of the parts of artifacts, and of every artifact but the manifest (`interp.storage.manifest`)."""

import math
from collections.abc import Sized
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from interp.statistics import Estimate
from interp.storage.json_files import json_ready

PROVENANCE = ("schema_version", "software", "provenance", "settings", "seed")
"""Fields of an artifact that its representation leaves out."""
SHORT, SHORTEST = 48, 12
"""Longest text [characters] and longest list of numbers that the representation of an artifact shows."""


class Record(BaseModel):
    """An artifact or a part of one. Numbers that are not finite become null; unknown fields are ignored on reading."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _undefined_is_null(cls, value: Any) -> Any:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    def to_json(self) -> str:
        """The artifact as its file holds it: JSON, indented, with null for undefined numbers."""
        return self.model_dump_json(indent=2) + "\n"

    def __dir__(self) -> list[str]:
        """What completion offers: the fields and methods of an artifact, without those of every pydantic model."""
        return [name for name in super().__dir__() if name.startswith("_") or not hasattr(BaseModel, name)]

    def __repr__(self) -> str:
        """Every field of a part; of an artifact one line, with its short values and the lengths of the others."""
        if "schema_version" not in type(self).model_fields:
            return super().__repr__()
        named = [(name, getattr(self, name)) for name in type(self).model_fields if name not in PROVENANCE]
        shown = [text for name, value in named if (text := _short(name, value))]
        return f"<{type(self).__name__}: {', '.join(shown)}>"

    def __str__(self) -> str:
        return repr(self)


def _short(name: str, value: Any) -> str:
    """A field in a few words; nothing for parts, empty fields and long texts."""
    if isinstance(value, list) and 0 < len(value) <= SHORTEST and all(isinstance(each, int) for each in value):
        return f"{name} {value}"
    if isinstance(value, str):
        return f"{name} {value!r}" if len(value) <= SHORT else ""
    if isinstance(value, Sized):
        return f"{name} ({len(value)})" if len(value) else ""
    return f"{name} {value}" if isinstance(value, bool | int | float) else ""


class Interval(Record):
    """A number with its 95% interval, a bootstrap over patients."""

    model_config = ConfigDict(extra="forbid")

    value: float | None = Field(description="the estimate; null where it is undefined")
    low: float | None = Field(description="lower end of the 95% interval; null where there is no interval")
    high: float | None = Field(description="upper end of the 95% interval; null where there is no interval")

    @classmethod
    def of(cls, estimate: Estimate) -> "Interval":
        """Round an estimate to six digits. NaN becomes null, because JSON has no NaN."""
        return cls(**{k: None if math.isnan(v) else round(v, 6) for k, v in estimate._asdict().items()})


def interval_of(estimate: Estimate) -> Interval:
    """An estimate as artifacts hold it: six significant digits, null where it is undefined."""
    return Interval(**json_ready(estimate))

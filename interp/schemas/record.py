"""The base class of every artifact and of its parts."""

import math
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from interp.schemas.layers import Interval
from interp.statistics import Estimate
from interp.storage.json_files import json_ready


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

    def __str__(self) -> str:
        return repr(self)


def interval_of(estimate: Estimate) -> Interval:
    """An estimate as artifacts hold it: six significant digits, null where it is undefined."""
    return Interval(**json_ready(estimate))

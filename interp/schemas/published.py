"""Published figures on single features, which published.json holds, to stand beside the reader's own."""

from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field, TypeAdapter

from interp.schemas.record import Record

FILE = Path(__file__).with_name("published.json")

Measure = Literal[
    "recovery",
    "cohens_d",
    "above_half",
    "unflipped_change",
    "reversals",
    "largest",
    "r",
    "flip_rate_before",
    "flip_rate_after",
    "accuracy_change",
]
"""What a figure measures: a field of study.json, of its `pair_effects`, `test`, `tracking` or `clamp`."""


class PublishedFigure(Record):
    """One published figure."""

    measure: Measure = Field(description="what it measures")
    value: float = Field(description="the figure: a share, a correlation or a count")
    low: float | None = Field(default=None, description="lower end of its 95% interval; null where none is published")
    high: float | None = Field(default=None, description="upper end of its 95% interval")
    of: int | None = Field(default=None, description="number of flips that a count is of; null for other figures")
    source: str = Field(description="where it is published")


class PublishedFeature(Record):
    """The published figures on one feature."""

    feature: str = Field(description="LAYER:FEATURE")
    sae: str = Field(description="beginning of the folder name of its SAE")
    about: str = Field(description="what they were measured on, and how that differs from a study here")
    figures: list[PublishedFigure] = Field(description="the figures")


@cache
def _published() -> list[PublishedFeature]:
    return TypeAdapter(list[PublishedFeature]).validate_json(FILE.read_bytes())


def published_on(feature: str, sae: str) -> PublishedFeature | None:
    """What is published on a feature, LAYER:FEATURE of the SAE with this folder name; None if nothing is known."""
    return next((each for each in _published() if each.feature == feature and sae.startswith(each.sae)), None)

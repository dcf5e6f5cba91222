"""Checks of a verification: what an artifact claims beside what was computed again, and whether the two agree."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from interp.runtime.errors import InputError
from interp.storage.manifest import check_manifest, read_manifest

CLOSE = {"float32": 1e-3, "bfloat16": 0.06, "float16": 0.06}
"""Arithmetic -> largest difference of two margins [logits] of one prompt, which depends on what shares its batch."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Check:
    """One thing that an artifact claims."""

    what: str = Field(description="what the claim is about")
    claimed: str = Field(description="what the artifact says")
    found: str = Field(description="what was found now")
    holds: bool = Field(description="whether the two agree")
    tolerance: str = Field(default="exactly", description="how far they may differ")


def same(what: str, claimed: Any, found: Any) -> Check:
    """A claim that must hold exactly."""
    return Check(what, str(claimed), str(found), claimed == found)


def numbers(content: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Every number of JSON content with its path, such as a.b[0]; undefined ones are NaN."""
    if isinstance(content, dict):
        for name, inside in content.items():
            yield from numbers(inside, f"{path}.{name}" if path else str(name))
    elif isinstance(content, list):
        for place, inside in enumerate(content):
            yield from numbers(inside, f"{path}[{place}]")
    elif content is None or (isinstance(content, int | float) and not isinstance(content, bool)):
        yield path, math.nan if content is None else float(content)


def near(what: str, claimed: Any, found: Any, tolerance: float) -> Check:
    """The claim that all numbers of two contents agree within `tolerance`, relative to numbers above 1."""
    before, now = dict(numbers(claimed)), dict(numbers(found))
    distances = {place: _distance(before.get(place), now.get(place)) for place in {*before, *now}}
    beyond = sorted(place for place, distance in distances.items() if distance > tolerance)
    worst = max(distances.values(), default=0.0)
    told = f"{len(before) - len(before.keys() & set(beyond))} the same, largest difference {worst:.2g}"
    if beyond:
        told += f"; {len(beyond)} beyond the tolerance, the first {beyond[0]}"
    return Check(what, f"{len(before)} numbers", told, not beyond, f"{tolerance:g}")


def _distance(claimed: float | None, found: float | None) -> float:
    if claimed is None or found is None:
        return math.inf
    if math.isnan(claimed) or math.isnan(found):
        return 0.0 if math.isnan(claimed) and math.isnan(found) else math.inf
    return abs(claimed - found) / max(1.0, abs(claimed))


def files_check(folder: Path) -> Check | None:
    """Whether the files of a folder are as its manifest says; None if it has no manifest."""
    manifest = read_manifest(folder)
    if manifest is None:
        return None
    try:
        check_manifest(folder)
        told = "as written"
    except InputError as error:
        told = str(error).split(". ")[0]
    return Check("files", f"{len(manifest.files)} checksums", told, told == "as written")

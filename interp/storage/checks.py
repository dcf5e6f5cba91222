"""What an artifact checks beside what was computed again, and whether the two agree."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from interp.runtime.errors import InputError
from interp.storage.manifest import check_manifest, read_manifest

if TYPE_CHECKING:
    pass

CLOSE = {"float32": 1e-3, "bfloat16": 0.06, "float16": 0.06}
"""Arithmetic -> what two margins [logits] of one prompt differ by at most: it depends on what shares a batch."""


class Check(NamedTuple):
    """One thing that an artifact says."""

    what: str
    """Of what."""
    claimed: str
    """What the artifact says."""
    found: str
    """What was found now."""
    holds: bool
    """Whether they agree."""
    tolerance: str = "exactly"
    """Within what."""


def same(what: str, claimed: Any, found: Any) -> Check:
    """A check that must hold exactly."""
    return Check(what, str(claimed), str(found), claimed == found)


def numbers(content: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Every number of plain JSON content with the place where it is, undefined ones as NaN."""
    if isinstance(content, dict):
        for name, inside in content.items():
            yield from numbers(inside, f"{path}.{name}" if path else str(name))
    elif isinstance(content, list):
        for place, inside in enumerate(content):
            yield from numbers(inside, f"{path}[{place}]")
    elif content is None or (isinstance(content, int | float) and not isinstance(content, bool)):
        yield path, math.nan if content is None else float(content)


def near(what: str, claimed: Any, found: Any, tolerance: float) -> Check:
    """That all numbers of two contents are the same within `tolerance`, of their size where that is above 1."""
    before, now = dict(numbers(claimed)), dict(numbers(found))
    far = {place: _distance(before.get(place), now.get(place)) for place in {*before, *now}}
    beyond = sorted(place for place, distance in far.items() if distance > tolerance)
    worst = max(far.values(), default=0.0)
    told = f"{len(before) - len(beyond)} the same, largest difference {worst:.2g}"
    if beyond:
        told += f"; {len(beyond)} beyond, the first {beyond[0]}"
    return Check(what, f"{len(before)} numbers", told, not beyond, f"{tolerance:g}")


def _distance(claimed: float | None, found: float | None) -> float:
    if claimed is None or found is None:
        return math.inf
    if math.isnan(claimed) or math.isnan(found):
        return 0.0 if math.isnan(claimed) and math.isnan(found) else math.inf
    return abs(claimed - found) / max(1.0, abs(claimed))


def files_check(folder: Path) -> Check | None:
    """Whether a folder is as its manifest says; None without one."""
    manifest = read_manifest(folder)
    if manifest is None:
        return None
    try:
        check_manifest(folder)
        told = "as written"
    except InputError as error:
        told = str(error).split(". ")[0]
    return Check("files", f"{len(manifest.files)} checksums", told, told == "as written")

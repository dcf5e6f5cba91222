"""Compare the numbers of two runs, file by file: `python tests/compare_artifacts.py BEFORE AFTER`.

A change of names, structure or prose must leave every number as it was, bit for bit. JSON files are compared value by
value under RENAMED, tables column by column, weights by their bytes. Provenance, versions, times and texts
are passed over. Exits with 1 if any number differs or is missing.
"""

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import safe_open

PASSED_OVER = {"provenance", "software", "seconds", "schema_version", "checksums", "files", "commit", "digests"}
"""Fields that describe how a result came about, not what it is."""
RENAMED: dict[str, str] = {}
"""Field of the older artifact -> its name in the newer one; empty for a field that was deleted on purpose."""


def numbers(content: Any, path: str = "") -> Iterator[tuple[str, float | bool | None]]:
    """Every number of a JSON document under the path that leads to it, by the newer names."""
    if isinstance(content, dict):
        for key, value in content.items():
            new = RENAMED.get(key, key)
            if key not in PASSED_OVER and new:
                yield from numbers(value, f"{path}/{new}")
    elif isinstance(content, list):
        for place, value in enumerate(content):
            yield from numbers(value, f"{path}/{place}")
    elif content is None or isinstance(content, int | float):
        yield path, content


def same(a: Any, b: Any) -> bool:
    """Whether two numbers are the same to the last bit; NaN is the same as NaN."""
    both_nan = isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b)
    return both_nan or (type(a) is type(b) and a == b)


def json_differences(before: Path, after: Path) -> tuple[int, list[str]]:
    """How many numbers were compared, and the paths of those that differ or are missing."""
    old, new = (dict(numbers(json.loads(path.read_text()))) for path in (before, after))
    wrong = [f"{path}: {old[path]} -> {new.get(path, 'missing')}" for path in old if not same(old[path], new.get(path))]
    return len(old), wrong


def table_differences(before: Path, after: Path) -> tuple[int, list[str]]:
    """The same for the columns of a CSV or parquet file."""
    old, new = (pd.read_parquet(p) if p.suffix == ".parquet" else pd.read_csv(p) for p in (before, after))
    old = old.rename(columns=RENAMED).drop(columns="", errors="ignore")
    wrong = [f"column {name}" for name in old if name not in new or not old[name].equals(new[name])]
    return old.size, wrong


def weight_differences(before: Path, after: Path) -> tuple[int, list[str]]:
    """The same for the tensors of a safetensors file."""
    with safe_open(before, "pt") as old, safe_open(after, "pt") as new:
        names = list(old.keys())
        wrong = [name for name in names if not old.get_tensor(name).equal(new.get_tensor(name))]
        return sum(old.get_tensor(name).numel() for name in names), wrong


COMPARED = {
    ".json": json_differences,
    ".csv": table_differences,
    ".parquet": table_differences,
    ".safetensors": weight_differences,
}
"""Ending of a file -> how two of them are compared."""


def main(before: Path, after: Path) -> int:
    """Print a line a file, and return the exit code."""
    failed = False
    for path in sorted(p for p in before.rglob("*") if p.suffix in COMPARED and p.name != "manifest.json"):
        name = path.relative_to(before)
        if not (after / name).is_file():
            print(f"{name}: missing")
            failed = True
            continue
        count, wrong = COMPARED[path.suffix](path, after / name)
        failed |= bool(wrong)
        print(f"{name}: {count} numbers, {len(wrong)} differ", *wrong[:8], sep="\n    ")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))

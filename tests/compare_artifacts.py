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
RENAMED: dict[str, str] = {
    "profile.control": "random_patch",
    "profile.write_control": "random_write",
    "profile.joint": "feature_patch",
    "profile.net_joint": "net_feature_patch",
    "profile.step": "",
    "firing_rate": "density",
    "settings.max_width": "max_layers",
    "weights": "",
    "ranges.write/write": "write",
    "ranges.rise/recovery": "growth",
    "ranges.level/auc": "near-peak",
    "ranges.rise/auc": "",
    "ranges.rise/net": "",
    "ranges.level/recovery": "",
    "ranges.level/net": "",
}
"""Field of the older artifact -> its name in the newer one; empty for a field that was deleted on purpose.

A field may be written with the field that holds it, and is then renamed there alone. Ranges go by their rule and score.
"""
RENAMED_VALUES = {"score": {"control": "random_patch", "net_joint": "net_feature_patch"}}
"""Column of a table -> text in the older one -> text in the newer one."""


def numbers(content: Any, path: str = "") -> Iterator[tuple[str, float | bool | None]]:
    """Every number of a JSON document under the path that leads to it, by the newer names."""
    if isinstance(content, dict | list):
        parent = next((name for name in reversed(path.split("/")) if not name.isdigit()), "")
        for key, value in content.items() if isinstance(content, dict) else map(listed, enumerate(content)):
            new = RENAMED.get(f"{parent}.{key}", RENAMED.get(key, key))
            if key not in PASSED_OVER and new:
                yield from numbers(value, f"{path}/{new}")
    elif content is None or isinstance(content, int | float):
        yield path, content


def listed(entry: tuple[int, Any]) -> tuple[str, Any]:
    """An entry of a list with its name: ranges go by rule and score, comparisons and quadrants by what they are of.

    Everything else goes by its place. So a new measure does not hide that the others are as they were.
    """
    place, value = entry
    for names in (("kind", "subset", "measure", "reference", "arm"), ("arm", "reliance")):
        if isinstance(value, dict) and set(names) <= set(value):
            return "/".join(value[name] for name in names), value
    if isinstance(value, dict) and {"rule", "first", "last"} <= set(value):
        return "/".join(value[name] for name in ("rule", "profile") if value.get(name)), value
    return str(place), value


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
    old = old.rename(columns=RENAMED).drop(columns="", errors="ignore").replace(RENAMED_VALUES)
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

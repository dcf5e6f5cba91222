"""Rows of CSV, TSV, JSON, JSON Lines and parquet files, and their columns by whatever name they have."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from interp.runtime.errors import InputError
from interp.storage.json_files import parse_json

ENDINGS = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
_WRAPPERS = ("results", "data", "questions", "rows")
_ROWS = 10**6
"""A parquet file may claim as many, or one a byte: more are no different questions, but a few repeated."""


class Row(NamedTuple):
    """One row of a table."""

    where: str
    """File name and row, counted from 1 without the header."""
    cells: dict[str, Any]
    """Column -> value; None for an empty cell."""


def read_rows(path: Path) -> list[Row]:
    """All rows of a table file. Raises InputError if it is not there, not UTF-8, damaged or of another kind."""
    if not path.is_file():
        raise InputError(f"{path}: no such file.")
    kind = path.suffix.lower()
    if kind not in ENDINGS:
        raise InputError(f"{path}: found a file of kind {kind or 'without ending'!r}, expected {', '.join(ENDINGS)}.")
    try:
        rows = _parquet(path) if kind == ".parquet" else _text(path, kind)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}). Save it as UTF-8.") from None
    if not rows:
        raise InputError(f"{path}: holds no rows.")
    return [Row(f"{path.name}, row {i}", {k: _value(v) for k, v in row.items()}) for i, row in enumerate(rows, start=1)]


def _text(path: Path, kind: str) -> Sequence[Mapping[str, Any]]:
    text = path.read_text(encoding="utf-8-sig")
    try:
        if kind in (".csv", ".tsv"):
            csv.field_size_limit(2**24)
            return list(csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if kind == ".tsv" else ","))
        if kind == ".jsonl":
            # Not by splitlines, which also breaks at separators that may stand inside a text.
            content: Any = [parse_json(line) for line in text.split("\n") if line.strip()]
        else:
            content = parse_json(text)
    except (ValueError, csv.Error) as error:
        raise InputError(f"{path}: damaged ({error}).") from None
    if isinstance(content, dict):
        content = next((content[name] for name in _WRAPPERS if isinstance(content.get(name), list)), None)
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise InputError(f"{path}: expected a list of objects, or one under {', '.join(map(repr, _WRAPPERS))}.")
    return content


def _parquet(path: Path) -> Sequence[Mapping[str, Any]]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            claimed, size = file.metadata.num_rows, path.stat().st_size
            if claimed > max(_ROWS, size):
                raise InputError(f"{path}: claims {claimed} rows in {size} bytes. Questions differ; write them anew.")
            return file.read().to_pylist()
    except InputError:
        raise
    except (ArrowException, OSError, ValueError, OverflowError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: damaged ({reason}).") from None


def _value(cell: Any) -> Any:
    """Blank, NaN and NULL, as tables write what is missing, become None."""
    if isinstance(cell, float) and math.isnan(cell):
        return None
    if isinstance(cell, str):
        cell = cell.strip()
        return None if cell == "" or cell.lower() in ("nan", "null", "none") else cell
    return cell


def match_columns(
    found: Iterable[str], needed: Mapping[str, Sequence[str]], optional: Mapping[str, Sequence[str]], where: str
) -> dict[str, str]:
    """Our name of each column -> its name in the table, the first of its known names that is there.

    Raises InputError with what was found and what was expected if a needed one is missing.
    """
    present = {name.strip().lower(): name for name in found if name}
    matched = {}
    for ours, names in [*needed.items(), *optional.items()]:
        known = next((present[name] for name in names if name in present), None)
        if known is not None:
            matched[ours] = known
        elif ours in needed:
            expected = "; ".join(f"{key}: {' or '.join(options)}" for key, options in needed.items())
            raise InputError(
                f"{where}: no column for {ours!r}. Found {', '.join(sorted(present.values()))}; expected {expected}. "
                "Rename the column, or choose another --format."
            )
    return matched


def text_of(cell: Any) -> str | None:
    """A cell as text; whole numbers without a decimal point, as ids are often read as floats."""
    if cell is None:
        return None
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    return str(cell).strip()


def columns_of(rows: Sequence[Row]) -> list[str]:
    """Every column that any row has, in order of appearance."""
    return list(dict.fromkeys(name for row in rows for name in row.cells))

"""Rows of CSV, TSV, JSON, JSON Lines and parquet files or tables in memory, and their columns under any known name."""

import io
import json
import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from interp.importing.cells import holds_labels
from interp.importing.tables_in_memory import InMemory, records_of, with_label_names
from interp.runtime.errors import InputError, first_line
from interp.storage.json_files import parse_json

ENDINGS = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".arrow")
Source: TypeAlias = Path | InMemory
"""A table file, a folder of table files, or a table in memory."""
_NO_TABLES = ("dataset_info.json", "dataset_dict.json", "dataset_infos.json", "state.json")
"""Files that the `datasets` library writes beside tables."""
_WRAPPERS = ("results", "data", "questions", "rows")
_MOST_ROWS = 10**6
"""Rows that a parquet file of any size may claim; larger files may claim one row per byte. A file of repeated rows can
claim far more than fit into memory, but questions differ."""


class TableRow(NamedTuple):
    """A row of a table file."""

    where: str
    """File name, if there is a file, and row number, counted from 1 without the header."""
    cells: dict[str, Any]
    """Column -> value; None for an empty cell."""


def read_rows(source: Source) -> list[TableRow]:
    """All rows of a table file, of all table files in a folder, or of a table in memory.

    Values stay as the table has them: text in CSV and TSV, JSON or parquet values elsewhere. Only surrounding spaces
    are removed, and empty cells become None; words such as "none" are kept. The files of a folder get a column `split`
    that is the first part of their names (`test-00000-of-00001.parquet`), unless they have one already.
    Raises InputError if a file is missing, damaged, empty, not UTF-8 or of another kind.
    """
    if not isinstance(source, Path):
        rows = records_of(source)
        if not rows:
            raise InputError("The table holds no rows.")
        return _table_rows("", rows)
    if source.is_dir():
        files = [path for path in sorted(source.rglob("*")) if path.suffix.lower() in ENDINGS and path.is_file()]
        files = [path for path in files if path.name not in _NO_TABLES]
        if not files:
            raise InputError(f"{source}: no table in this folder. Give a file of kind {', '.join(ENDINGS)}.")
        return [row for path in files for row in _with_split(path.relative_to(source), read_rows(path))]
    return _read_file(source)


def _with_split(path: Path, rows: list[TableRow]) -> list[TableRow]:
    named = re.search(r"(?:^|/)(train|test|val|validation|dev)(?=[-_./])", path.as_posix().lower())
    return [row._replace(cells={"split": named[1]} | row.cells) for row in rows] if named else rows


def _table_rows(name: str, rows: Iterable[Mapping[str, Any]]) -> list[TableRow]:
    return [
        TableRow(f"{name}row {i}", {str(column): _without_missing(value) for column, value in row.items()})
        for i, row in enumerate(rows, start=1)
    ]


def _read_file(path: Path) -> list[TableRow]:
    if not path.is_file():
        raise InputError(f"{path}: no such file.")
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise InputError(f"{path}: found a file of kind {ending or 'without ending'!r}, expected {', '.join(ENDINGS)}.")
    try:
        if ending in (".csv", ".tsv"):
            rows = _read_csv(path, "\t" if ending == ".tsv" else ",")
        else:
            binary = {".parquet": _read_parquet, ".arrow": _read_arrow}.get(ending)
            rows = binary(path) if binary else _read_json(path, lines=ending == ".jsonl")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not UTF-8 text ({error.reason} at byte {error.start}). Save it as UTF-8 (in Excel: 'CSV UTF-8')."
        ) from None
    if not rows:
        raise InputError(f"{path}: holds no rows.")
    return _table_rows(f"{path.name}, ", rows)


def _read_csv(path: Path, separator: str) -> Sequence[Mapping[str, Any]]:
    import pandas as pd
    from pandas.errors import EmptyDataError, ParserError, ParserWarning

    content = _text_of(path)
    header, _, rest = content.partition("\n")
    if (said := re.fullmatch(r"sep=(.)", header.strip("\r"))) is not None:
        separator, content = said[1], rest
    else:
        # Spreadsheets write semicolons where the comma is the decimal sign, and tabs as "Unicode text".
        separator = max((separator, ",", ";", "\t", "|"), key=header.count)
    text = io.StringIO(content, newline="")
    try:
        with warnings.catch_warnings():
            # pandas only warns if the first row has more cells than the header.
            warnings.simplefilter("error", ParserWarning)
            table = pd.read_csv(text, sep=separator, dtype=str, na_filter=False, index_col=False)
    except EmptyDataError:
        return []
    except (ParserError, ParserWarning, ValueError) as error:
        reason = str(error).removeprefix("Error tokenizing data. C error: ").strip()
        raise InputError(f"{path}: damaged ({reason}). Quote the cells that contain the separator.") from None
    return table.to_dict("records")


def _text_of(path: Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 if it says so, as spreadsheets write it."""
    with path.open("rb") as file:
        marked = file.read(2) in (b"\xff\xfe", b"\xfe\xff")
    return path.read_text(encoding="utf-16" if marked else "utf-8-sig")


def _read_json(path: Path, lines: bool) -> Sequence[Mapping[str, Any]]:
    # Not by pandas, which turns a column of integers with gaps into floats: long ids would lose their last digits.
    text = _text_of(path)
    try:
        # splitlines would also split at separators that may occur inside a text.
        # Many files that are called .json hold an object per line, as the `datasets` library writes them.
        lines = lines or re.match(r"\s*\{.*\}[ \r]*\n\s*\{", text) is not None
        content: Any = [parse_json(line) for line in text.split("\n") if line.strip()] if lines else parse_json(text)
    except ValueError as error:
        raise InputError(f"{path}: damaged ({error}).") from None
    if isinstance(content, dict):
        content = _rows_of_object(content)
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise InputError(f"{path}: expected a list of objects, or one under {', '.join(map(repr, _WRAPPERS))}.")
    return content


def _rows_of_object(content: dict[str, Any]) -> Any:
    """The rows of a JSON object: under a usual name, by column, by id or by split; None for anything else."""
    wrapped = next((content[name] for name in _WRAPPERS if isinstance(content.get(name), list)), None)
    if wrapped is not None:
        return wrapped
    values = list(content.values())
    if all(isinstance(row, dict) and any("question" in name.lower() for name in row) for row in values):
        return values
    if values and all(isinstance(part, list) and all(isinstance(row, dict) for row in part) for part in values):
        return [{"split": name} | row for name, part in content.items() for row in part]
    if any("question" in name.lower() and isinstance(value, str) for name, value in content.items()):
        return [content]
    return _rows_of_columns(content)


def _rows_of_columns(content: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The rows of `{column: {row: value}}`, as pandas writes a data frame; None for anything else."""
    columns = list(content.values())
    if not columns or not all(isinstance(c, dict) and c.keys() == columns[0].keys() for c in columns):
        return None
    return [{name: cells[row] for name, cells in content.items()} for row in columns[0]]


def _read_parquet(path: Path) -> Sequence[Mapping[str, Any]]:
    # Not by pandas, for the same reason, and because the claimed size has to be checked before anything is read.
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            claimed, size = file.metadata.num_rows, path.stat().st_size
            if claimed > max(_MOST_ROWS, size):
                raise InputError(f"{path}: claims {claimed} rows in {size} bytes. Write the file again.")
            names = _label_names(file.schema_arrow.metadata or {})
            return [with_label_names(row, names) for row in file.read().to_pylist()]
    except InputError:
        raise
    except (ArrowException, OSError, ValueError, OverflowError) as error:
        reason = first_line(error)
        raise InputError(f"{path}: damaged ({reason}).") from None


def _read_arrow(path: Path) -> Sequence[Mapping[str, Any]]:
    """The rows of a file that `save_to_disk` of the `datasets` library wrote."""
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
            names = _label_names(stream.schema.metadata or {})
            return [with_label_names(row, names) for row in stream.read_all().to_pylist()]
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: damaged ({first_line(error)}).") from None


def _label_names(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """Column -> the names of its numbers, where the `datasets` library wrote the file (its type ClassLabel)."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        labels = {name: kind["names"] for name, kind in features.items() if kind.get("_type") == "ClassLabel"}
        return {name: [str(label) for label in names] for name, names in labels.items()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}


def _without_missing(value: Any) -> Any:
    """A value, its text stripped; None for an empty one, however the table writes it (blank, NaN)."""
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, str):
        value = value.strip()
        return None if value.lower() in ("", "nan", "<na>", "nat") else value
    return value


def match_columns(
    found: Iterable[str], needed: Mapping[str, Sequence[str]], optional: Mapping[str, Sequence[str]], where: str
) -> dict[str, str]:
    """Our name of each column -> its name in the table, the first of its known names that occurs.

    Raises InputError with the columns found and expected if a needed one is missing.
    """
    found = [name for name in found if name]
    present = {_bare(name): name for name in reversed(found)}
    matched = {}
    for ours, names in [*needed.items(), *optional.items()]:
        known = next((present[_bare(name)] for name in names if _bare(name) in present), None)
        if known is not None:
            matched[ours] = known
        elif ours in needed:
            expected = "; ".join(f"{key}: {' or '.join(options)}" for key, options in needed.items())
            # Without a header, the first row is taken for one, and errors must not quote its cells.
            quoted = any(re.search(r"[?/\\]|\d{3}|\.\w|.{50}|(?:\w+ ){3}", name) for name in found)
            names_found = "names that look like cells of a row" if quoted else ", ".join(sorted(found))
            raise InputError(
                f"{where}: no column for {ours!r}. Found {names_found}; expected {expected}. "
                f"{'Put the names into the first row' if quoted else 'Rename the column'}, or choose another --format."
            )
    return matched


def _bare(name: str) -> str:
    """The name of a column without case, spaces and punctuation: "Patient ID" is `patient_id`."""
    return re.sub(r"[\W_]+", "", name).lower()


def columns_of(rows: Sequence[TableRow], wordings: Iterable[str] = ()) -> list[str]:
    """Every column that any row has, in order of appearance.

    A column that is named like one of `wordings`, but holds only numbers or labels, has this remark after its name, so
    that it is not taken for one.
    """
    names = dict.fromkeys(name for row in rows for name in row.cells)
    known = {_bare(name) for name in wordings}
    return [
        f"{name} (which holds labels, not wordings)"
        if _bare(name) in known and holds_labels(row.cells.get(name) for row in rows)
        else name
        for name in names
    ]


def name_of(source: Source) -> str:
    """How messages call a table."""
    return str(source) if isinstance(source, Path) else f"The table of type {type(source).__name__}"

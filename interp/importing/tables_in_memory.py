"""Tables that a program holds itself: data frames, data sets of the `datasets` library, and lists of rows."""

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from interp.runtime.errors import InputError

InMemory: TypeAlias = Iterable[Any]
"""A pandas data frame, a `datasets.Dataset`, a list of dicts, or a DatasetDict, whose keys name its splits."""


def records_of(source: Any) -> list[dict[str, Any]]:
    """The rows of a table in memory, as columns with plain Python values: lists for arrays, None for missing values.

    Images of the `datasets` library are their undecoded files. Raises InputError for anything that is no table.
    """
    if isinstance(source, Mapping):
        return [{"split": name} | row for name, part in source.items() for row in records_of(part)]
    if hasattr(source, "itertuples"):
        columns = [str(name) for name in source.columns]
        rows: Iterable[Any] = (
            dict(zip(columns, row, strict=True)) for row in source.itertuples(index=False, name=None)
        )
    elif hasattr(source, "cast_column"):
        labels = {
            name: feature.names for name, feature in (source.features or {}).items() if hasattr(feature, "int2str")
        }
        rows = (with_label_names(row, labels) for row in _with_encoded_images(source))
    elif hasattr(source, "to_pylist"):
        rows = source.to_pylist()
    elif hasattr(source, "to_dicts"):
        rows = source.to_dicts()
    else:
        rows = source if isinstance(source, Iterable) and not isinstance(source, str | bytes) else [source]
    found = list(rows)
    if not all(isinstance(row, Mapping) for row in found):
        raise InputError(
            f"A table of type {type(source).__name__}: found rows that are not objects. Give a path, a pandas data "
            "frame, a datasets.Dataset or a list of dicts."
        )
    return [{str(name): _plain(value) for name, value in row.items()} for row in found]


def with_label_names(row: Mapping[str, Any], names: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """A row with the numbers of some columns replaced by their names, as the `datasets` library stores labels.

    The number alone would mislead: in a column of the labels "yes" and "no", yes is 0.
    """

    def named(column: str, value: Any) -> Any:
        known = names.get(column, ())
        return known[value] if isinstance(value, int) and 0 <= value < len(known) else value

    return {column: named(column, value) for column, value in row.items()}


def _with_encoded_images(dataset: Any) -> Any:
    """The data set with its image columns as `{bytes, path}`, which keeps the files as they are."""
    for name, feature in (dataset.features or {}).items():
        # The library is not imported, as it is installed only where somebody has such a data set.
        if type(feature).__name__ == "Image":
            dataset = dataset.cast_column(name, type(feature)(decode=False))
    return dataset.with_format(None)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist") and hasattr(value, "dtype"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    if hasattr(value, "save") and hasattr(value, "getbands"):
        return {"bytes": _file_of(value), "path": getattr(value, "filename", None) or None}
    return bytes(value) if isinstance(value, bytearray | memoryview) else value


def _file_of(picture: Any) -> bytes:
    """A PIL picture as an image file without loss, upright, since such a file gets no EXIF data."""
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(picture)
    kind = "TIFF" if upright.mode in ("F", "I", "CMYK") else "PNG"
    if upright.mode in ("YCbCr", "LAB", "HSV"):
        upright = upright.convert("RGB")
    file = io.BytesIO()
    upright.save(file, kind)
    return file.getvalue()

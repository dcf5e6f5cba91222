"""The data sets that questions can be imported from: `FORMATS` names the reader of each."""

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from interp.importing.records import DroppedRow, SourceQuestion
    from interp.importing.table_files import Source

Reader = Callable[["Source", str | None], "Iterator[SourceQuestion | DroppedRow]"]
"""Reads a file, a folder or a table in memory, and the subset of that name, into its questions in their order."""

FORMATS = {
    "psf-med": "psf_med.read",
    "medical-cxr-vqa": "medical_cxr_vqa.read",
    "hard-positives": "medical_cxr_vqa.read_hard_positives",
    "vqa-rad": "vqa_rad.read",
    "jsonl": "own_format.read",
}
"""Format -> module of this folder and function that reads it."""

HUB_NAMES = {"psf-med": "saillab/psf-med"}
"""Format -> name of the data set on the Hugging Face hub, where it is available there."""


def reader_of(format: str) -> Reader:
    """The reader of a format. It raises InputError for a source whose columns do not fit the format.

    Its module is imported here, so that the command line can name the formats without loading any reader.
    """
    module, function = FORMATS[format].split(".")
    return getattr(import_module(f"interp.importing.{module}"), function)

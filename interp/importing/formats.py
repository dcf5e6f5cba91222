"""The data sets that questions can be imported from: `FORMATS` names the reader of each."""

from collections.abc import Callable, Iterator

from interp.importing import medical_cxr_vqa, own_format, psf_med, vqa_rad
from interp.importing.records import DroppedRow, SourceQuestion
from interp.importing.table_files import Source

Reader = Callable[[Source, str | None], Iterator[SourceQuestion | DroppedRow]]
"""Reads a file, a folder or a table in memory, and the subset of that name, into its questions in their order."""

FORMATS: dict[str, Reader] = {
    "psf-med": psf_med.read,
    "medical-cxr-vqa": medical_cxr_vqa.read,
    "hard-positives": medical_cxr_vqa.read_hard_positives,
    "vqa-rad": vqa_rad.read,
    "jsonl": own_format.read,
}
"""Format -> its reader, which raises InputError for a source whose columns do not fit the format."""

HUB_NAMES = {"psf-med": "saillab/psf-med"}
"""Format -> name of the data set on the Hugging Face hub, where it is available there."""

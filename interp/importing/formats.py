"""The data sets that questions are imported from, one file each; `FORMATS` names them."""

from collections.abc import Callable, Iterator
from pathlib import Path

from interp.importing import medical_cxr_vqa as chest_vqa
from interp.importing import own_format as jsonl
from interp.importing import psf_med, vqa_rad
from interp.importing.records import Dropped, Record

Reader = Callable[[Path, str | None], Iterator[Record | Dropped]]
"""From a file or folder and the name of a subset to its questions, in their order."""

FORMATS: dict[str, Reader] = {
    "psf-med": psf_med.read,
    "medical-cxr-vqa": chest_vqa.read,
    "hard-positives": chest_vqa.read_hard_positives,
    "vqa-rad": vqa_rad.read,
    "jsonl": jsonl.read,
}
"""Format -> its reader. A reader raises InputError for a source whose columns are not those of its format."""

HUB = {"psf-med": "saillab/psf-med"}
"""Format -> the data set's name on the hub, where it is there."""

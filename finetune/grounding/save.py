"""A grounding study on disk: its result, its table of scores and its figures."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from finetune.grounding.figures import example_sheet
from finetune.grounding.study import GroundingStudy
from interp.storage.atomic import atomic_folder, write_text
from interp.storage.manifest import write_manifest
from interp.views.figures.grounding import grounding_drawings
from interp.views.figures.style import save_figures


def save_grounding(
    found: GroundingStudy,
    out: Path,
    examples: int = 0,
    work: Path | None = None,
    inputs: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Write grounding.json, grounding.csv and the figures into the new folder `out`, atomically.

    They are first written in the folder `work`, by default beside `out`; the manifest records the `inputs`. No question
    text, path or patient is written. With `examples`, examples.png shows that many images with their maps and boxes.
    Raises InputError if `out` is not empty.
    """
    with atomic_folder(out, work) as folder:
        write_text(folder / "grounding.json", found.to_json())
        found.scores.to_csv(folder / "grounding.csv", index=False, float_format="%.6g")
        save_figures(grounding_drawings(found.model_dump()), folder)
        if examples:
            sheet = example_sheet(found.asked[:examples], found.maps)
            # Without the name of matplotlib, because `interp scrub` takes its figures for ones without a radiograph.
            sheet.savefig(folder / "examples.png", format="png", metadata={"Software": None})
        write_manifest(folder, {path.name: path for path in folder.iterdir()}, inputs)

"""A grounding study on disk: its result, its long table, its figures, and the maps over the images if asked for."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from finetune.grounding.study import GroundingStudy
from interp.images.boxes import unit_boxes
from interp.images.decode import open_image
from interp.storage.atomic import atomic_folder, write_text
from interp.storage.manifest import write_manifest
from interp.views.figures.grounding import grounding_drawings
from interp.views.figures.style import SCREEN, save_figures, styled


def save_grounding(
    found: GroundingStudy,
    out: Path,
    examples: int = 0,
    work: Path | None = None,
    inputs: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Write grounding.json, grounding.csv and the figures into the new folder `out`, all or none.

    They are written in the folder `work` first, by default beside `out`; the manifest says what they were `inputs`. No
    question text, path or patient is written. With `examples`, examples.png shows the first so many images with
    their maps and boxes. Raises InputError if `out` holds something.
    """
    text = found.to_json()
    with atomic_folder(out, work) as folder:
        write_text(folder / "grounding.json", text)
        found.scores.to_csv(folder / "grounding.csv", index=False, float_format="%.6g")
        save_figures(grounding_drawings(json.loads(text)), folder)
        if examples:
            # Not called matplotlib's, as `interp scrub` takes such for figures without a radiograph.
            example_sheet(found, examples).savefig(folder / "examples.png", format="png", metadata={"Software": None})
        write_manifest(folder, {path.name: path for path in folder.iterdir()}, inputs)


def example_sheet(found: GroundingStudy, count: int) -> Any:
    """The first `count` images, a row for each arm: the box alone, then every map over the image."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    shown = [(i, arm) for i in range(min(count, found.questions)) for arm in found.arms]
    names = list(found.maps[found.arms[0]])
    with styled(SCREEN):
        figure = Figure(figsize=(1.9 * (len(names) + 1), 2.1 * len(shown)), dpi=SCREEN.dpi, layout="constrained")
        grid = figure.subplots(len(shown), len(names) + 1, squeeze=False)
    for row, (i, arm) in zip(grid, shown, strict=True):
        question = found.asked[i]
        picture = open_image(question.image)
        grey = np.asarray(picture.convert("L"))
        for axes, name in zip(row, [None, *names], strict=True):
            axes.imshow(grey, cmap="gray", extent=(0, 1, 1, 0))
            if name is not None:
                values = found.maps[arm][name][i].clip(0)
                side = round(len(values) ** 0.5)
                heat = (values / max(float(values.max()), 1e-12)).reshape(side, side)
                axes.imshow(heat, cmap="inferno", alpha=0.5, vmin=0, vmax=1, extent=(0, 1, 1, 0))
            for x0, y0, x1, y1 in unit_boxes(question.boxes, picture.size):
                axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, ec="white", lw=1.4))
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_title(f"{i}, {arm}" if name is None else name, fontsize=8)
    return figure

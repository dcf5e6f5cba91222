"""The maps of a grounding study over its images."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finetune.grounding.map_scores import Floats
from interp.images.boxes import unit_boxes
from interp.images.decode import open_image
from interp.questions.schema import Question
from interp.views.figures.style import SCREEN, styled


def example_sheet(questions: Sequence[Question], maps: Mapping[str, Mapping[str, Floats]]) -> Any:
    """A figure of some questions' images, one row per image and arm: the box alone, then every map over the image.

    `maps` holds arm -> map -> [questions or more, image tokens], in the order of the questions.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    shown = [(i, arm) for i in range(len(questions)) for arm in maps]
    names = list(next(iter(maps.values())))
    with styled(SCREEN):
        figure = Figure(figsize=(1.9 * (len(names) + 1), 2.1 * len(shown)), dpi=SCREEN.dpi, layout="constrained")
        grid = figure.subplots(len(shown), len(names) + 1, squeeze=False)
    for row, (i, arm) in zip(grid, shown, strict=True):
        question = questions[i]
        picture = open_image(question.image)
        grey = np.asarray(picture.convert("L"))
        for axes, name in zip(row, [None, *names], strict=True):
            axes.imshow(grey, cmap="gray", extent=(0, 1, 1, 0))
            if name is not None:
                values = maps[arm][name][i].clip(0)
                side = round(len(values) ** 0.5)
                heat = (values / max(float(values.max()), 1e-12)).reshape(side, side)
                axes.imshow(heat, cmap="inferno", alpha=0.5, vmin=0, vmax=1, extent=(0, 1, 1, 0))
            for x0, y0, x1, y1 in unit_boxes(question.boxes, picture.size):
                axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, ec="white", lw=1.4))
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_title(f"{i}, {arm}" if name is None else name, fontsize=8)
    return figure

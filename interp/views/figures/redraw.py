"""Drawing the figures of a folder again, in any size."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel

from interp.runtime.errors import InputError
from interp.schemas.ablation import Ablation
from interp.schemas.evaluation import Evaluation
from interp.schemas.grounding import Grounding
from interp.schemas.layers import read_layers
from interp.schemas.read import read_artifact
from interp.schemas.study import Study
from interp.storage.atomic import atomic_folder
from interp.storage.folders import check_folder
from interp.views.figures.ablation import ablation_drawing
from interp.views.figures.evaluation import evaluation_drawings
from interp.views.figures.feature_study import study_drawings
from interp.views.figures.grounding import grounding_drawings
from interp.views.figures.search import search_drawings
from interp.views.figures.style import Drawing, Size, read_frame, save_figures
from interp.views.figures.training import COLUMNS, training_curves

PAIRS = ["layer", "feature", "delta", "shift", "flipped"]
"""Columns of delta_margin.csv."""


def redraw(folder: Path, out: Path, size: Size) -> list[Path]:
    """Draw everything that `folder` holds data for into the new folder `out`, atomically; returns the paths.

    Raises InputError as `drawings` does, and if `out` is not empty.
    """
    found = drawings(folder)
    with atomic_folder(out) as partial:
        names = [path.name for path in save_figures(found, partial, size)]
    return [out / name for name in names]


def drawings(folder: Path) -> list[Drawing]:
    """Every figure that a folder holds the data of: of a search, a feature study, an adapter, an ablation, a grounding.

    Raises InputError if there is none, or if a file is damaged or has a newer schema.
    """
    check_folder(folder, "Give the one that a command wrote its results into.")
    found = [drawing for name, draw in SOURCES.items() if (folder / name).is_file() for drawing in draw(folder / name)]
    if not found:
        raise InputError(
            f"{folder}: nothing to draw. Expected a folder that `interp find-features`, `interp test-feature`, "
            f"`finetune`, `finetune ablate` or `finetune grounding` wrote, with one of {', '.join(SOURCES)}."
        )
    return found


def _search(path: Path) -> list[Drawing]:
    pairs = _table(path.with_name("delta_margin.csv"), PAIRS)
    wordings = _table(path.with_name("register.csv"), ["layer", "feature", "register", "activation"])
    return search_drawings(read_layers(path), pairs, wordings)


def _study(path: Path) -> list[Drawing]:
    cells = _table(path.with_name("grid.csv"), ["level", "frame", "mean_activation"])
    if cells is None:
        raise InputError(f"{path.parent}: grid.csv is missing beside study.json. Run `interp test-feature` again.")
    content = read_artifact(path, Study).model_dump()
    return study_drawings(content, cells, _table(path.with_name("delta_margin.csv"), PAIRS))


def _training(path: Path) -> list[Drawing]:
    history = _table(path, COLUMNS)
    if history is None or not len(history):
        return []
    return [Drawing("training", history, lambda size: training_curves(history, size))]


def _of(kind: type[BaseModel], draw: Callable[[Mapping[str, Any]], list[Drawing]]) -> Callable[[Path], list[Drawing]]:
    """Draws the figures of an artifact from its file."""
    return lambda path: draw(read_artifact(path, kind).model_dump())


def _table(path: Path, columns: list[str]) -> pd.DataFrame | None:
    """Read a CSV file that must have some columns; None if there is no such file."""
    if not path.is_file():
        return None
    try:
        frame = read_frame(path)
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a CSV table ({error}).") from None
    missing = [name for name in columns if name not in frame]
    if missing:
        raise InputError(f"{path}: no column {', '.join(missing)}; found {', '.join(map(str, frame))}.")
    return frame


SOURCES: dict[str, Callable[[Path], list[Drawing]]] = {
    "layers.json": _search,
    "study.json": _study,
    "history.csv": _training,
    "evaluation.json": _of(Evaluation, evaluation_drawings),
    "ablation.json": _of(Ablation, lambda content: [ablation_drawing(content)]),
    "grounding.json": _of(Grounding, grounding_drawings),
}
"""File in a folder -> the figures of that file."""

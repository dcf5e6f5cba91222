"""Drawing figures again from what a folder holds, in any size."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import ValidationError

from interp.runtime.errors import InputError
from interp.schemas.layers import read_layers
from interp.schemas.read import NEWEST
from interp.storage.atomic import atomic_folder
from interp.storage.json_files import refuse_newer
from interp.views.figures.ablation import ablation_drawing
from interp.views.figures.evaluation import evaluation_drawings
from interp.views.figures.feature_study import study_drawings
from interp.views.figures.grounding import grounding_drawings
from interp.views.figures.margin import delta_against_margin
from interp.views.figures.profile import layer_profile, profile_frame
from interp.views.figures.register import activation_by_register
from interp.views.figures.style import Drawing, Size, read_frame, save_figures
from interp.views.figures.training import COLUMNS, training_curves


def redraw(folder: Path, out: Path, size: Size) -> list[Path]:
    """Draw all that `folder` holds data for into the new folder `out`, all or none; returns the paths of the files.

    Raises InputError as `drawings`, and if `out` holds something.
    """
    found = drawings(folder)
    with atomic_folder(out) as partial:
        names = [path.name for path in save_figures(found, partial, size)]
    return [out / name for name in names]


def drawings(folder: Path) -> list[Drawing]:
    """Every figure that a folder holds the data of: of a search, a feature study, an adapter, an ablation, a grounding.

    Raises InputError if there is none, and for a file that is damaged or of a newer schema.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder. Give the one that a command wrote its results into.")
    found = [drawing for name, draw in SOURCES.items() if (folder / name).is_file() for drawing in draw(folder / name)]
    if not found:
        raise InputError(
            f"{folder}: nothing to draw. Expected a folder that `interp find-features`, `interp test-feature`, "
            f"`finetune`, `finetune ablate` or `finetune grounding` wrote, with one of {', '.join(SOURCES)}."
        )
    return found


def _search(path: Path) -> list[Drawing]:
    artifact = read_layers(path)
    found = [Drawing("layer_profile", profile_frame(artifact), lambda size: layer_profile(artifact, size=size))]
    folder = path.parent
    if (pairs := _table(folder / "delta_margin.csv", ["layer", "feature", "delta", "shift", "flipped"])) is not None:
        found.append(Drawing("delta_margin", pairs, lambda size: delta_against_margin(pairs, size=size)))
    if (wordings := _table(folder / "register.csv", ["layer", "feature", "register", "activation"])) is not None:
        found.append(Drawing("register", wordings, lambda size: activation_by_register(wordings, size=size)))
    return found


def _study(path: Path) -> list[Drawing]:
    cells = _table(path.parent / "grid.csv", ["level", "frame", "mean_activation"])
    if cells is None:
        raise InputError(f"{path.parent}: grid.csv is missing beside study.json. Run `interp test-feature` again.")
    pairs = _table(path.parent / "delta_margin.csv", ["layer", "feature", "delta", "shift", "flipped"])
    return _of_content(path, lambda content: study_drawings(content, cells, pairs))


def _training(path: Path) -> list[Drawing]:
    history = _table(path, COLUMNS)
    if history is None or not len(history):
        return []
    return [Drawing("training", history, lambda size: training_curves(history, size))]


def _of_content(path: Path, draw: Callable[[Mapping[str, Any]], list[Drawing]]) -> list[Drawing]:
    """The drawings of a JSON file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        refuse_newer(path, content["schema_version"], NEWEST[path.name])
        return draw(content)
    except (ValueError, LookupError, TypeError, AttributeError, ValidationError) as error:
        raise InputError(
            f"{path}: not as GateScope writes it ({type(error).__name__}: {error}). Make it again with this version."
        ) from None


def _table(path: Path, columns: list[str]) -> pd.DataFrame | None:
    """A CSV file that must have some columns; None if there is no such file."""
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
    "evaluation.json": lambda path: _of_content(path, evaluation_drawings),
    "ablation.json": lambda path: _of_content(path, lambda content: [ablation_drawing(content)]),
    "grounding.json": lambda path: _of_content(path, grounding_drawings),
}
"""File that a folder holds -> the figures of it."""

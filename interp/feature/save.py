"""A feature study on disk: study.json, its tables and its figures."""

from pathlib import Path

from interp.feature.circuit_graph import FOLDER, circuit_files
from interp.feature.study import FeatureStudy
from interp.storage.atomic import atomic_folder, write_text
from interp.storage.json_files import write_json
from interp.views.figures.feature_study import group_frame, study_drawings
from interp.views.figures.style import save_figures

WORDINGS = "wordings.csv"
"""The one file of a study that holds question text."""


def save_study(study: FeatureStudy, out: Path, include_text: bool = False) -> None:
    """Write study.json, by_group.csv, grid.csv and the figures into the new folder `out`, atomically.

    A study with edges also has the folder circuit/, which circuit-tracer's page shows. No question, path or patient is
    written; the frames and findings of the grid are. With `include_text`, wordings.csv holds the wordings that activate
    the feature most and least. Undefined numbers are null in the JSON and empty in the tables. Raises InputError if
    `out` is not empty.
    """
    content = study.model_dump()
    pairs = study.deltas()
    with atomic_folder(out) as folder:
        write_text(folder / "study.json", study.to_json())
        group_frame(content).to_csv(folder / "by_group.csv", index=False)
        study.cells.to_csv(folder / "grid.csv", index=False, float_format="%.6g")
        graph = circuit_files(study)
        if graph:
            (folder / FOLDER).mkdir()
        for name, part in graph.items():
            write_json(folder / FOLDER / name, part)
        if include_text:
            study.wordings.to_csv(folder / WORDINGS, index=False, float_format="%.6g")
        save_figures(study_drawings(content, study.cells, pairs), folder)

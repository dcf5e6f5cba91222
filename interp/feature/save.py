"""A feature study on disk: study.json, its tables, and its figures."""

from pathlib import Path
from typing import Any

from interp.causal.feature_patching import DOSES
from interp.feature.study import FeatureStudy
from interp.storage.atomic import atomic_folder
from interp.storage.json_files import json_ready, write_json
from interp.storage.provenance import provenance, software
from interp.views.figures.feature_study import group_frame, study_drawings
from interp.views.figures.margin import delta_frame
from interp.views.figures.style import save_figures

SCHEMA_VERSION = 1


def save_study(study: FeatureStudy, out: Path) -> None:
    """Write study.json, by_group.csv, grid.csv and the figures into the new folder `out`, all or none.

    No question text, path or patient is written; the grid's own frames and findings are. Undefined numbers are null in
    the JSON and empty in the tables. Raises InputError if `out` holds something.
    """
    content = study_json(study)
    pairs = delta_frame(study.layer, study.feature, study.delta, study.flips)
    with atomic_folder(out) as folder:
        write_json(folder / "study.json", content)
        group_frame(content).to_csv(folder / "by_group.csv", index=False)
        study.grid.cells.to_csv(folder / "grid.csv", index=False, float_format="%.6g")
        save_figures(study_drawings(content, study.grid.cells, pairs), folder)


def study_json(study: FeatureStudy) -> dict[str, Any]:
    """The study as plain values for JSON; undefined numbers are None."""
    plain = ("layer", "feature", "d_sae", "sae", "neuronpedia", "model", "revision", "fingerprint", "questions")
    more = ("patients", "density", "direct_effect", "margin_slope", "notes", "seed")
    content = {name: getattr(study, name) for name in plain + more}
    grid = {k: v for k, v in study.grid._asdict().items() if k != "cells"}
    parts = {
        "prompt": study.prompt._asdict(),
        "tracking": study.tracking,
        "test": study.test,
        "doses": DOSES,
        "groups": study.groups,
        "grid": grid,
        "neighbours": study.neighbours,
        "software": software(),
        "provenance": provenance().model_dump(),
    }
    return json_ready({"schema_version": SCHEMA_VERSION} | content | parts)

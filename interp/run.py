"""A run on disk: layers.json, the features as parquet and CSV, and the figures."""

from pathlib import Path

from interp.artifact import write_layers
from interp.errors import InputError
from interp.figure_style import save_figures
from interp.figures.search import search_drawings
from interp.files import whole_file
from interp.find import FindResult
from interp.manifest import write_manifest

LAYERS = "layers.json"
FILES = (LAYERS, "features.parquet", "features.csv")


def refuse_run(out: Path) -> None:
    """Raise InputError if `out` already holds a run, or is a file."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file. Give --out a folder.")
    present = [name for name in FILES if (out / name).exists()]
    if present:
        raise InputError(
            f"{out}: already holds a run ({', '.join(present)}), and nothing is overwritten. "
            "Choose another --out, or remove these files."
        )


def save_result(result: FindResult, out: Path) -> None:
    """Write a run into `out`, layers.json last, so that its presence means a whole run.

    The manifest is of layers.json and the features; figures may be drawn again.
    """
    refuse_run(out)
    with whole_file(out / "features.parquet") as partial:
        result.features.to_parquet(partial, index=False)
    with whole_file(out / "features.csv") as partial:
        result.features.to_csv(partial, index=False, float_format="%.6g")
    save_figures(search_drawings(result), out)
    with whole_file(out / LAYERS) as partial:
        write_layers(result.artifact, partial)
        write_manifest(out, {name: out / name for name in FILES} | {LAYERS: partial})

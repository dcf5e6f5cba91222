"""What an artifact records of a loaded model."""

from pathlib import Path

from interp.model.vlm import Vlm
from interp.schemas.layers import ModelEntry


def model_entry(vlm: Vlm) -> ModelEntry:
    """The model's name, revision, shape and arithmetic, as every artifact records them."""
    return ModelEntry(
        id=vlm.name,
        revision=vlm.revision,
        n_layers=vlm.n_layers,
        d_model=vlm.d_model,
        dtype=vlm.arithmetic,
        load_in=vlm.load_in,
        synthetic=is_synthetic(Path(vlm.model.name_or_path)),
    )


def is_synthetic(folder: Path) -> bool:
    """Whether `interp demo` built the model in a folder: as part of a world, or with a planted gate."""
    return folder.is_dir() and ((folder.parent / "world.json").is_file() or (folder / "plant.json").is_file())

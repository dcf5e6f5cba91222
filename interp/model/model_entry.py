"""What an artifact records of a loaded model."""

from interp.model.vlm import Vlm
from interp.schemas.layers import ModelEntry


def model_entry(vlm: Vlm) -> ModelEntry:
    """The model's name, revision, shape and arithmetic, as every artifact records them."""
    return ModelEntry(
        id=vlm.name, revision=vlm.revision, n_layers=vlm.n_layers, d_model=vlm.d_model, dtype=vlm.arithmetic
    )

"""The SAEs of some layers, and the residuals that they encode."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from interp.measurement.residual_store import Residuals
from interp.saes.sae import Sae


class SaeInputs(NamedTuple):
    """The SAEs of the layers that this process screens, and their inputs on all prompts."""

    load: Callable[[int], Sae]
    """Gives the SAE of a layer."""
    residuals: Residuals
    """resid_post at the final token of every prompt, at the layers of the SAEs and at the layer below each."""
    device: torch.device = torch.device("cpu")
    """Where the SAEs are."""
    beside: int = 0
    """Number of threads that may screen layers beside other work; with none, nothing goes on meanwhile."""

    def at(self, layer: int) -> tuple[Sae, Tensor]:
        """The SAE of a layer and the residuals after it, [n prompts, d_model]."""
        return self.load(layer), self.residuals.after(layer)

"""Final-token residuals of many prompts at many layers, in main memory while they fit and in a file beyond."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from interp.storage.disk_full import disk_full_errors


class Residuals(NamedTuple):
    """resid_post at the final token of n prompts."""

    layers: list[int]
    """Those that are kept, ascending."""
    values: Tensor
    """[number of layers, n, d_model], in the model's dtype."""

    def after(self, layer: int) -> Tensor:
        """[n, d_model] after a layer."""
        return self.values[self.layers.index(layer)]

    def shift(self, layers: Sequence[int], first: Tensor, second: Tensor) -> Tensor:
        """Row `first`[i] less row `second`[i], int64 [pairs], after each layer: float32 [pairs, layers, d_model].

        Layer -1 is what enters layer 0, which no wording changes at the final token: zero.
        """
        found = torch.zeros(len(first), len(layers), self.values.shape[2])
        for k, layer in enumerate(layers):
            if layer >= 0:
                found[:, k] = self.after(layer)[first].float() - self.after(layer)[second]
        return found


def empty_residuals(layers: Sequence[int], n: int, d_model: int, dtype: torch.dtype, max_bytes: int) -> Residuals:
    """Room for n prompts: in main memory up to `max_bytes`, else in a temporary file that has no name on the disk.

    Raises InputError if there is no room for it.
    """
    shape = (len(layers), n, d_model)
    size = len(layers) * n * d_model
    if size * dtype.itemsize <= max_bytes:
        return Residuals(list(layers), torch.empty(shape, dtype=dtype))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "residuals"
        # Taken now where the system can: a disk that is full when a map is written to kills the process.
        if hasattr(os, "posix_fallocate"):
            with disk_full_errors(file), file.open("wb") as opened:
                os.posix_fallocate(opened.fileno(), 0, size * dtype.itemsize)
        # The mapping outlives the name, so nothing stays behind, however the run ends.
        values = torch.from_file(str(file), shared=True, size=size, dtype=dtype)
    return Residuals(list(layers), values.reshape(shape))

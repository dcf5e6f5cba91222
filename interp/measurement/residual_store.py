"""Final-token residuals of many prompts at many layers, in main memory or, if too large, in a temporary file.

`margins.py` and `sharded.py` write into it, in a thread.
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from interp.storage.write_errors import disk_full_errors


class Residuals(NamedTuple):
    """resid_post at the final token of n prompts."""

    layers: list[int]
    """Layers whose residuals are stored, ascending."""
    values: Tensor
    """Residuals: [number of layers, n, d_model], in the model's dtype."""

    def __repr__(self) -> str:
        layers, n, d_model = self.values.shape
        return f"Residuals({n} prompts, {layers} layers, d_model {d_model}, {self.values.dtype})".replace("torch.", "")

    def after(self, layer: int) -> Tensor:
        """Residuals after one of the layers: [n, d_model]."""
        return self.values[self.layers.index(layer)]

    def shift(self, layers: Sequence[int], first: Tensor, second: Tensor) -> Tensor:
        """Row `first`[i] minus row `second`[i] after each of `layers`: float32 [pairs, layers, d_model].

        `first` and `second` are int64 [pairs]. Layer -1 stands for the input of layer 0, which is the same at the final
        token of every wording, so its difference is zero.
        """
        found = torch.zeros(len(first), len(layers), self.values.shape[2])
        for k, layer in enumerate(layers):
            if layer >= 0:
                # Indexing takes seven times as long as selecting whole rows.
                found[:, k] = self.after(layer).index_select(0, first)
                found[:, k] -= self.after(layer).index_select(0, second)
        return found


def empty_residuals(layers: Sequence[int], n: int, d_model: int, dtype: torch.dtype, max_bytes: int) -> Residuals:
    """Uninitialized residuals of n prompts, in main memory up to `max_bytes` and else in an unnamed temporary file.

    Raises InputError if the disk is too full for the file.
    """
    shape = (len(layers), n, d_model)
    size = len(layers) * n * d_model
    if size * dtype.itemsize <= max_bytes:
        return Residuals(list(layers), torch.empty(shape, dtype=dtype))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "residuals"
        # Reserve the space now where the system can: writing to a map of a full disk kills the process.
        if hasattr(os, "posix_fallocate"):
            with disk_full_errors(file), file.open("wb") as opened:
                os.posix_fallocate(opened.fileno(), 0, size * dtype.itemsize)
        # The mapping outlives the file name, so no file is left, however the run ends.
        values = torch.from_file(str(file), shared=True, size=size, dtype=dtype)
    return Residuals(list(layers), values.reshape(shape))

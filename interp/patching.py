"""The layer patch: the whole final-token residual of the original wording put into the paraphrase, layer by layer.

It bounds what any feature at a layer can recover, so its profile shows where the two wordings part ways.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp.features import Flips
from interp.vlm import Edit, Vlm, measure


class LayerPatch(NamedTuple):
    """Effects of the layer patch and of its control on each of n pairs, at each of the layers."""

    shift: NDArray[np.float64]
    """[n]: m(q) - m(p) [logits], what a full recovery would restore."""
    effect: NDArray[np.float64]
    """[n, layers]: m(p') - m(p) [logits] with the residual of q put in."""
    control: NDArray[np.float64]
    """[n, layers]: the same with a random direction of the same norm added instead."""
    after: NDArray[np.float64]
    """[n]: m(p) [logits]."""

    @property
    def recovered(self) -> NDArray[np.float64]:
        """[n, layers]: effect along the shift [logits]; divided by |shift| it is the pair's margin recovery."""
        return self.effect * np.sign(self.shift)[:, None]

    @property
    def control_recovered(self) -> NDArray[np.float64]:
        """[n, layers]: the control's effect along the shift [logits]."""
        return self.control * np.sign(self.shift)[:, None]

    @property
    def reversed(self) -> NDArray[np.bool_]:
        """[n, layers]: whether the patch gives the paraphrase the answer of the original."""
        before = self.after + self.shift
        return ((self.after[:, None] + self.effect) > 0) == (before > 0)[:, None]


def patch_layers(
    vlm: Vlm, prompts: pd.DataFrame, flips: Flips, residuals: Tensor, layers: list[int], seed: int, description: str
) -> LayerPatch:
    """Patch every layer of every pair, and its random-direction control.

    `residuals` [n prompts, len(layers), d_model] are those of the unpatched prompts. All patches of a pair run in one
    sequence: up to its final token the prompt is the same, so it is computed once.
    """
    n, count = len(flips.pairs), len(layers)
    original = torch.from_numpy(flips.pairs["original"].to_numpy(np.int64, copy=True))
    paraphrase = torch.from_numpy(flips.pairs["paraphrase"].to_numpy(np.int64, copy=True))
    delta = residuals[original] - residuals[paraphrase]
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(delta.shape, generator=generator)
    noise *= delta.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True)
    # Rows: pair by pair, its patches at every layer, then its controls at every layer.
    rows = prompts.iloc[np.repeat(paraphrase.numpy(), 2 * count)][["image", "text"]]
    edit = Edit(torch.tensor(layers * 2).repeat(n), torch.stack([delta, noise], dim=1).flatten(0, 2))
    margin = measure(vlm, rows, edit=edit, description=description).margin.double().numpy().reshape(n, 2, count)
    change = margin - flips.margin_after[:, None, None]
    return LayerPatch(flips.margin_before - flips.margin_after, change[:, 0], change[:, 1], flips.margin_after)

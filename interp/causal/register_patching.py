"""The register patch: of the difference between two wordings, only what is common to formal against casual wordings.

The register direction of a layer is the mean difference of the final token between formal and casual wordings of one
question (difference in means; as for refusal in Arditi et al., arXiv 2406.11717). A gate of formality reads it, so
exchanging this one direction below the gate restores the answer. A gate of another property of the wording, or flips
without a gate, leave it without effect.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp.causal.layer_patching import PatchTarget, control_directions

FEWEST_PAIRS = 20
"""Fewest pairs of a formal and a casual wording from which a direction is taken."""


class RegisterPatches(NamedTuple):
    """Effects of the register patches of some layers on n pairs, positive towards m(q) [logits]."""

    register: NDArray[np.float64]
    """[n, layers]: effect of the register patch."""
    random: NDArray[np.float64]
    """[n, layers]: effect of random directions of the same norm."""


def register_signs(pairs: pd.DataFrame) -> NDArray[np.float64]:
    """[pairs] 1 where a formal original has a casual paraphrase, -1 in the opposite case, 0 otherwise."""
    return pairs["registers"].map({"formal-casual": 1.0, "casual-formal": -1.0}).fillna(0.0).to_numpy(float, copy=True)


def register_direction(by_wording: Tensor, signs: NDArray[np.float64]) -> Tensor:
    """The register direction of one layer: float32 [d_model] with norm 1.

    `by_wording` float32 [m, d_model] are differences of the final token's residuals, original minus paraphrase, and
    `signs` [m] those of `register_signs`.
    """
    mean = torch.from_numpy(signs).float() @ by_wording
    return mean / mean.norm().clamp_min(torch.finfo(mean.dtype).tiny)


def patch_register(
    target: PatchTarget, parts: Tensor, layers: Sequence[int], seed: int, noise: Tensor | None = None
) -> RegisterPatches:
    """Apply the register patch of every layer; `parts` float32 [n, layers, d_model] are the differences along it.

    `noise` is as for `interp.causal.layer_patching.control_directions`.
    """
    control = control_directions(parts, seed, noise)
    effects = target.effect([*layers] * 2, torch.cat([parts, control], dim=1), "register patches")
    register, random = np.split(effects * np.sign(target.shift)[:, None], 2, axis=1)
    return RegisterPatches(register, random)

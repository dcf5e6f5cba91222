"""The patch of one vector a pair: how much of the margin shift comes back, and how much of that later layers make.

It tests what is no single feature, such as a family of features or the part of a residual that an SAE leaves out. As in
`interp.causal.feature_patching`, what the vector recovers where only the output layer reads it is direct, the rest is
mediated, and both are set against random directions of the same norms.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from interp.causal.controlled_edits import ControlledEdits
from interp.causal.layer_patching import PatchTarget
from interp.statistics import Estimate, ratio_interval, ratio_sign_flips

RANDOMS = 8
"""Random directions for each pair and vector."""


class VectorTest(NamedTuple):
    """The recovery by one vector a pair, as shares of the margin shift, and by random directions of its norm."""

    recovery: Estimate
    """Sum of the effects over the sum of |shift|."""
    net: Estimate
    """recovery minus that of random directions."""
    p: float
    """Two-sided p of `net` = 0, sign-flip test over patients; not adjusted."""
    direct: Estimate
    """Recovery by the same vector added to the last layer's output, where no layer acts on it."""
    net_mediated: Estimate
    """recovery - direct, minus the same of random directions."""
    p_mediated: float
    """Two-sided p of `net_mediated` = 0, likewise."""
    reversals: int
    """Number of pairs whose original answer the patch restores."""


def drawn_noise(n: int, k: int, d_model: int, seed: int) -> Tensor:
    """Random directions for the tests of k vectors of n pairs: float32 [n, k * RANDOMS, d_model], of any length."""
    return torch.randn(n, k * RANDOMS, d_model, generator=torch.Generator().manual_seed(seed))


def patch_vectors(
    target: PatchTarget, layers: Sequence[int], vectors: Tensor, seed: int, noise: Tensor | None = None
) -> list[VectorTest]:
    """Test k vectors a pair, each added to the paraphrase's final-token residual after its one of `layers` [k].

    `vectors` is float32 [n, k, d_model]; the original's residual minus the paraphrase's would restore the margin.
    `noise` is what `drawn_noise` draws for them, which takes time.
    """
    n, k, d_model = vectors.shape
    norms = vectors.norm(dim=-1).repeat_interleave(RANDOMS, 1)
    size, source = torch.cat([torch.ones(n, k), norms], 1), torch.cat([torch.arange(k), -1 - torch.arange(k * RANDOMS)])
    drawn = drawn_noise(n, k, d_model, seed) if noise is None else noise
    # Everything once more, read directly.
    edits = ControlledEdits(size.repeat(1, 2), source.repeat(2), vectors, drawn)
    places = [*layers, *(layer for layer in layers for _ in range(RANDOMS))]
    places += [target.rerun.vlm.n_layers - 1] * len(places)
    every = target.effect(places, edits, "vector patches")
    shift, patients = np.abs(target.shift), target.patients
    total, direct = np.split(every * np.sign(target.shift)[:, None], 2, axis=1)
    answer = target.flips.margin_before > 0
    found = []
    for i in range(k):
        control = slice(k + i * RANDOMS, k + (i + 1) * RANDOMS)
        mediated, random_mediated = total[:, i] - direct[:, i], (total[:, control] - direct[:, control]).mean(1)
        net, p = ratio_sign_flips(total[:, i] - total[:, control].mean(1), shift, patients, seed)
        net_mediated, p_mediated = ratio_sign_flips(mediated - random_mediated, shift, patients, seed)
        # An empty vector has only rounding errors for effects.
        moves = bool(vectors[:, i].any())
        found.append(
            VectorTest(
                recovery=ratio_interval(total[:, i], shift, patients, seed),
                net=net,
                p=p if moves else 1.0,
                direct=ratio_interval(direct[:, i], shift, patients, seed),
                net_mediated=net_mediated,
                p_mediated=p_mediated if moves else 1.0,
                reversals=int((((target.flips.margin_after + every[:, i]) > 0) == answer).sum()),
            )
        )
    return found

"""Mediation by layer: which later layers make something of a feature's change.

A patch's vector v is added after layer b, so that only the layers above b can read it. S(b) is the recovery then: S of
the feature's own layer is the whole effect, S of the last layer the direct part. The *fall* from S(b - 1) to S(b) is
what layer b makes of v, with all that later layers make of that: path patching with one layer as the only reader that
is switched off. The falls of all layers add up to the mediated recovery.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from interp.causal.layer_patching import PatchTarget, random_directions
from interp.statistics import Estimate, benjamini_hochberg, ratio_interval, ratio_sign_flips

RANDOMS = 4
"""Random directions for each pair, the same after every layer."""


class LayerFall(NamedTuple):
    """What one layer makes of a patch's vector, as a share of the margin shift."""

    layer: int
    """The layer b that reads the vector."""
    effect: Estimate
    """S(b): recovery by the vector added after this layer, which the layer no longer reads."""
    fall: Estimate
    """S(b - 1) - S(b)."""
    net_fall: Estimate
    """fall minus that of random directions of the same norm."""
    p: float
    """Two-sided p of `net_fall` = 0, sign-flip test over patients, Benjamini-Hochberg adjusted over the layers."""


def falls_by_layer(target: PatchTarget, layer: int, vector: Tensor, seed: int) -> list[LayerFall]:
    """The fall at every layer above `layer` of the effect of `vector` [n, d_model]; empty for the last layer."""
    layers = list(range(layer, target.rerun.vlm.n_layers))
    if len(layers) == 1:
        return []
    noise = random_directions(vector[:, None].repeat(1, RANDOMS, 1), torch.Generator().manual_seed(seed))
    each = torch.cat([vector[:, None], noise], 1)
    width = each.shape[1]
    places = [b for b in layers for _ in range(width)]
    effects = target.effect(places, each.repeat(1, len(layers), 1), "mediation by layer")
    towards = (effects * np.sign(target.shift)[:, None]).reshape(-1, len(layers), width)
    size, patients = np.abs(target.shift), target.patients
    falls = towards[:, :-1] - towards[:, 1:]
    net = falls[:, :, 0] - falls[:, :, 1:].mean(2)
    tests = [ratio_sign_flips(net[:, i], size, patients, seed) for i in range(net.shape[1])]
    ps = [p for _, p in tests]
    # Without patients there is no p, and an empty vector has only rounding errors for effects.
    adjusted = benjamini_hochberg(np.array(ps)) if vector.any() and np.isfinite(ps).all() else np.ones(len(ps))
    return [
        LayerFall(
            layer=b,
            effect=ratio_interval(towards[:, i + 1, 0], size, patients, seed),
            fall=ratio_interval(falls[:, i, 0], size, patients, seed),
            net_fall=tests[i][0],
            p=float(adjusted[i]),
        )
        for i, b in enumerate(layers[1:])
    ]

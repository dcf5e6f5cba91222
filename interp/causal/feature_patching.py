"""Exact tests of single features: the feature patch on held-out flips, beside every control that could explain it.

A *feature patch* removes from the paraphrase's final-token residual what one feature changed: x' = x_p - delta * W_dec,
with delta = f(p) - f(q). *Recovery* is the share of the margin shift that comes back. The controls, at the same layer
and on the same pairs, are random directions of the same norm, matched features that move as much but do not
discriminate flips, and the feature's deltas on other pairs. The same patch on pairs that do not flip shows its side
effect.

Part of a recovery is *direct*: the patch's vector moves the margin when it is read by the output layer alone. What
remains is *mediated* by the layers above the feature. A feature that a gate reads is mediated by the layers that write;
one that merely carries the answer acts directly, with or without a gate.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp.causal.controlled_edits import ControlledEdits
from interp.causal.layer_patching import PatchTarget, control_directions
from interp.runtime.distributed import Team
from interp.schemas.tested_features import DOSES
from interp.screening.candidates import Candidate
from interp.screening.feature_stats import feature_delta
from interp.screening.flips import Flips
from interp.screening.sae_inputs import SaeInputs
from interp.statistics import Estimate, ratio_interval, ratio_sign_flips

RANDOMS = 24
"""Random directions per pair and feature."""
MATCHED = 3
"""Matched features per feature."""


class FeatureTest(NamedTuple):
    """The recovery by the patch of one feature on n held-out flips, and by its controls."""

    layer: int
    """Decoder layer."""
    feature: int
    """Index of the feature in the SAE."""
    n: int
    """Number of flips that were patched."""
    recovery: Estimate
    """Recovered share of the margin shift: sum of the effects over the sum of |shift|."""
    random: float
    """Mean recovery by random directions of the same norm."""
    matched: float
    """Mean recovery by the matched features; NaN if there are none."""
    swapped: float
    """Recovery with the feature's delta taken from another pair; NaN with one flip."""
    net: Estimate
    """recovery - random."""
    direct: Estimate
    """Recovery by the same vector added to the last layer's output, where no layer acts on it."""
    mediated: Estimate
    """recovery - direct."""
    random_mediated: float
    """The same difference for random directions, mean."""
    net_mediated: Estimate
    """mediated - random_mediated."""
    p_mediated: float
    """Two-sided p of `net_mediated` = 0, sign-flip test over patients; not adjusted."""
    p: float
    """Two-sided p of `net` = 0, sign-flip test over patients; not adjusted."""
    p_random: float
    """One-sided p: share of the random directions that recover at least as much; (1 + count) / (1 + RANDOMS)."""
    reversals: int
    """Number of flips whose original answer the patch restores."""
    random_reversals: float
    """Mean number that random directions restore."""
    unflipped_changed: float
    """Share of unflipped pairs whose answer the patch changes; NaN without such pairs."""
    dose: tuple[float, ...]
    """Recovery at DOSES times the patch."""


class FeaturePatch(NamedTuple):
    """What the test of one feature adds to the residuals, apart from random directions."""

    layer: int
    """Decoder layer."""
    feature: int
    """Index of the feature in the SAE."""
    delta: Tensor
    """float32 [pairs, 1 + matched]: f(p) - f(q) of the feature and of its matched features."""
    directions: Tensor
    """float32 [1 + matched, d_model]: their decoder rows."""
    unflipped: Tensor
    """float32 [unflipped pairs]: the feature's f(p) - f(q) on pairs that do not flip."""

    @property
    def vector(self) -> Tensor:
        """float32 [pairs, d_model]: what undoes the feature's change."""
        return -self.delta[:, :1] * self.directions[:1]


def matched_features(screen: pd.DataFrame, feature: int, count: int = MATCHED, tolerance: float = 0.05) -> list[int]:
    """Matched controls of a feature: the `count` nearest in mean |delta|, with a flip AUC within `tolerance` of .5.

    `screen` holds the rows of one layer of a screen. Distances in mean |delta| are taken on a log scale.
    """
    size = np.log(screen["delta_on_flips"] + screen["delta_otherwise"] + 1e-6)
    own = size[screen["feature"] == feature]
    if own.empty:
        return []
    candidates = screen[((screen["flip_auc"] - 0.5).abs() <= tolerance) & (screen["feature"] != feature)]
    order = (size[candidates.index] - own.iloc[0]).abs().sort_values().index
    return [int(f) for f in candidates.loc[order[:count], "feature"]]


def feature_patches(
    candidates: Sequence[Candidate], flips: Flips, unflipped: Flips, inputs: SaeInputs, screen: pd.DataFrame
) -> list[FeaturePatch]:
    """The patches of some candidates on flips and on unflipped pairs, in the order of `candidates`.

    `inputs` hold the layers of the candidates; `screen` is as of `interp.screening.feature_stats.adjust`.
    """
    found: dict[Candidate, FeaturePatch] = {}
    for layer in sorted({layer for layer, _ in candidates}):
        sae, residuals = inputs.at(layer)
        here = screen[screen["layer"] == layer]
        for feature in [f for place, f in candidates if place == layer]:
            columns = torch.tensor([feature, *matched_features(here, feature)])
            directions = sae.w_dec[columns.to(sae.w_dec.device)].float().cpu()
            delta = feature_delta(sae, residuals, flips.pairs, columns)
            other = feature_delta(sae, residuals, unflipped.pairs, columns[:1])[:, 0]
            found[layer, feature] = FeaturePatch(layer, feature, delta, directions, other)
    return [found[candidate] for candidate in candidates]


def gather_patches(own: Sequence[FeaturePatch], candidates: Sequence[Candidate], team: Team) -> list[FeaturePatch]:
    """Collect the patches that each process has made, in the order of `candidates`, at each of them."""
    parts = ("delta", "directions", "unflipped")
    named = {f"{patch.layer}:{patch.feature}:{part}": getattr(patch, part) for patch in own for part in parts}
    whole = {name: tensor for tensors in team.gather_tensors(named) for name, tensor in tensors.items()}
    return [
        FeaturePatch(layer, feature, *(whole[f"{layer}:{feature}:{part}"] for part in parts))
        for layer, feature in candidates
    ]


def apply_feature_patches(
    patches: Sequence[FeaturePatch], target: PatchTarget, unflipped: PatchTarget, seed: int
) -> list[FeatureTest]:
    """Patch features one at a time on the flips of `target`, with their controls, and on `unflipped` pairs."""
    if not patches:
        return []
    generator = torch.Generator().manual_seed(seed)
    n, vlm = len(target.flips.pairs), target.rerun.vlm
    # The same for every feature.
    order = torch.randperm(n, generator=generator)
    noise = torch.randn(n, RANDOMS, vlm.d_model, generator=generator)
    parts = [_feature_edits(patch, order, vlm.n_layers - 1) for patch in patches]
    starts = np.cumsum([0, *(len(patch.directions) for patch in patches)]).tolist()
    edits = ControlledEdits(
        torch.cat([part.size for part in parts], 1),
        torch.cat([part.source + start * (part.source >= 0) for part, start in zip(parts, starts, strict=False)]),
        torch.cat([patch.directions for patch in patches])[None],
        noise,
    )
    # One sweep, because the more features share it, the fewer kernels are launched.
    effects = target.effect([layer for part in parts for layer in part.layers], edits, "patching features")
    by_feature = np.split(effects, np.cumsum([len(part.layers) for part in parts])[:-1], axis=1)
    changed = _changed(patches, unflipped)
    return [
        _feature_test(patch, target, every, share, seed)
        for patch, every, share in zip(patches, by_feature, changed, strict=True)
    ]


class FeatureEdits(NamedTuple):
    """The k edits of one feature's test.

    First the feature at DOSES, its swapped deltas, its matched features and RANDOMS random directions at the feature's
    layer, then the feature and the random directions at the last layer.
    """

    layers: list[int]
    """[k]: the layer that each edit follows."""
    size: Tensor
    """float32 [n, k]: as of `ControlledEdits`."""
    source: Tensor
    """int64 [k]: likewise, places among the feature's own directions."""


def _feature_edits(patch: FeaturePatch, order: Tensor, last: int) -> FeatureEdits:
    """The edits of a feature whose deltas are swapped in the `order` int64 [n]; `last` is the last layer."""
    own, matched = -patch.delta[:, :1], patch.delta.shape[1] - 1
    norms = patch.vector.norm(dim=-1, keepdim=True).expand(-1, RANDOMS)
    here = [*(dose * own for dose in DOSES), -_swapped(patch.delta[:, 0], order)[:, None], -patch.delta[:, 1:], norms]
    drawn = [-1 - place for place in range(RANDOMS)]
    source = [0] * (len(DOSES) + 1) + list(range(1, 1 + matched)) + drawn
    return FeatureEdits(
        [patch.layer] * len(source) + [last] * (1 + RANDOMS),
        torch.cat([*here, own, norms], 1),
        torch.tensor([*source, 0, *drawn]),
    )


def _feature_test(
    patch: FeaturePatch, target: PatchTarget, every: NDArray[np.float64], unflipped_changed: float, seed: int
) -> FeatureTest:
    """The test of one feature from the effects [n, k] of its `FeatureEdits`."""
    n, matched = len(target.flips.pairs), len(patch.directions) - 1
    flips, shift = target.flips, target.shift
    here = every.shape[1] - 1 - RANDOMS
    size, along = np.abs(shift), every * np.sign(shift)[:, None]
    effect, towards, direct = every[:, :here], along[:, :here], along[:, here:]
    share = towards.sum(0) / size.sum()
    restored = ((flips.margin_after[:, None] + effect) > 0) == (flips.margin_before > 0)[:, None]
    one, swap = DOSES.index(1.0), len(DOSES)
    control, noise = slice(swap + 1, swap + 1 + matched), slice(swap + 1 + matched, None)
    mediated = towards[:, one] - direct[:, 0]
    random_mediated = (towards[:, noise] - direct[:, 1:]).mean(1)
    net_share, p = ratio_sign_flips(towards[:, one] - towards[:, noise].mean(1), size, target.patients, seed)
    net_mediated, p_mediated = ratio_sign_flips(mediated - random_mediated, size, target.patients, seed)
    # The empty patch of a feature that never moves has only rounding errors for effects.
    moves = bool(patch.vector.any())
    return FeatureTest(
        layer=patch.layer,
        feature=patch.feature,
        n=n,
        recovery=ratio_interval(towards[:, one], size, target.patients, seed),
        random=float(share[noise].mean()),
        matched=float(share[control].mean()) if matched else float("nan"),
        swapped=float(share[swap]) if n > 1 else float("nan"),
        net=net_share,
        direct=ratio_interval(direct[:, 0], size, target.patients, seed),
        mediated=ratio_interval(mediated, size, target.patients, seed),
        random_mediated=float(random_mediated.sum() / size.sum()),
        net_mediated=net_mediated,
        p_mediated=p_mediated if moves else 1.0,
        p=p if moves else 1.0,
        p_random=float((1 + (share[noise] >= share[one]).sum()) / (RANDOMS + 1)),
        reversals=int(restored[:, one].sum()),
        random_reversals=float(restored[:, noise].sum(0).mean()),
        unflipped_changed=unflipped_changed,
        dose=tuple(float(v) for v in share[: len(DOSES)]),
    )


def _swapped(delta: Tensor, order: Tensor) -> Tensor:
    """The deltas [n] moved on by one in a cyclic order int64 [n], so that no pair keeps its own."""
    swapped = torch.empty_like(delta)
    swapped[order] = delta[order.roll(1)]
    return swapped


def _changed(patches: Sequence[FeaturePatch], unflipped: PatchTarget) -> NDArray[np.float64]:
    """Share of unflipped pairs whose paraphrase is answered otherwise under each feature's patch: [patches]."""
    flips = unflipped.flips
    if not len(flips.pairs):
        return np.full(len(patches), np.nan)
    delta = torch.stack([-patch.unflipped[:, None] * patch.directions[0] for patch in patches], 1)
    effect = unflipped.effect([patch.layer for patch in patches], delta, "unflipped pairs")
    before = flips.margin_after[:, None]
    return (((before + effect) > 0) != (before > 0)).mean(0)


def joint_effects(
    target: PatchTarget, patch: Tensor, layers: Sequence[int], seed: int, noise: Tensor | None = None
) -> NDArray[np.float64]:
    """Effect [n, 2, layers] [logits] of each layer's joint feature patch, and of random directions of its norm.

    `patch` float32 [n, layers, d_model] is that of `interp.screening.feature_stats.joint_feature_patch`, and
    `noise` is as for `interp.causal.layer_patching.control_directions`.
    """
    deltas = torch.cat([patch, control_directions(patch, seed, noise)], dim=1)
    return target.effect([*layers] * 2, deltas, "joint feature patches").reshape(-1, 2, len(layers))

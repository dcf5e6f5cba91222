"""Exact tests of single features: the delta patch on held-out flips, beside every control that could explain it.

A *delta patch* takes from the paraphrase's final-token residual what one feature changed: x' = x_p - delta_f * W_dec.
*Recovery* is the share of the margin shift that comes back. Beside it stand, at the same layer and on the same pairs:
random directions of the same norm, features of like activation that do not tell flips, the deltas of other questions,
and the same patch on pairs that do not flip.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp.causal.layer_patching import patch_effect, random_like
from interp.measurement.residual_store import Residuals
from interp.measurement.suffix_rerun import SuffixRerun
from interp.runtime.distributed import Team
from interp.saes.sae import Sae
from interp.schemas.layers import DOSES
from interp.screening.feature_stats import feature_delta
from interp.screening.flips import Flips
from interp.statistics import Estimate, ratio_interval, sign_flip_p

RANDOMS = 24
"""Random directions a pair and feature."""
MATCHED = 3
"""Matched features a feature."""
Float = NDArray[np.float64]


class FeatureTest(NamedTuple):
    """What patching one feature does on n held-out flips, and what its controls do."""

    layer: int
    """Decoder layer."""
    feature: int
    """Index into the SAE."""
    n: int
    """Flips that were patched."""
    recovery: Estimate
    """Recovered share of the margin shift, sum over pairs over the sum of |shift|."""
    random: float
    """The same with random directions of the same norm, mean."""
    matched: float
    """The same with features of like activation that do not tell flips, mean; NaN where there are none."""
    swapped: float
    """The same with the delta of the feature on another pair; NaN with one flip."""
    net: Estimate
    """recovery - random."""
    p: float
    """Two-sided sign-flip test over patients that `net` is zero; not adjusted."""
    p_random: float
    """Share of the random directions whose recovery over all pairs is at least as large (one-sided, none: 1/(R+1))."""
    reversals: int
    """Flips whose answer the patch turns back."""
    random_reversals: float
    """The same by random directions, mean."""
    unflipped_changed: float
    """Share of pairs that do not flip whose answer the same patch changes; NaN without such pairs."""
    dose: tuple[float, ...]
    """Recovery at DOSES times the patch."""


def matched_features(screen: pd.DataFrame, feature: int, count: int = MATCHED, tolerance: float = 0.05) -> list[int]:
    """Features of the same layer that move as much but do not tell flips: flip AUC within `tolerance` of .5.

    `screen` are the rows of one layer of a screen (chosen half). Nearest in mean |delta|, on a log scale.
    """
    size = np.log(screen["delta_on_flips"] + screen["delta_otherwise"] + 1e-6)
    own = size[screen["feature"] == feature]
    if own.empty:
        return []
    candidates = screen[((screen["flip_auc"] - 0.5).abs() <= tolerance) & (screen["feature"] != feature)]
    order = (size[candidates.index] - own.iloc[0]).abs().sort_values().index
    return [int(f) for f in candidates.loc[order[:count], "feature"]]


class Probe(NamedTuple):
    """What the test of one feature patches: all that it needs of its layer's SAE and residuals."""

    layer: int
    """Decoder layer."""
    feature: int
    """Index into the SAE."""
    delta: Tensor
    """float32 [pairs, 1 + matched]: of the feature and of those that are matched with it."""
    directions: Tensor
    """float32 [1 + matched, d_model]: what they write."""
    unflipped: Tensor
    """float32 [unflipped pairs]: the feature's delta on pairs that do not flip."""


def probes_of(
    candidates: list[tuple[int, int]],
    flips: Flips,
    unflipped: Flips,
    residuals: Residuals,
    screen: pd.DataFrame,
    load: Callable[[int], Sae],
) -> list[Probe]:
    """What the tests of some candidates (layer, feature) patch; parameters as of `probe_features`."""
    found: dict[tuple[int, int], Probe] = {}
    for layer in sorted({layer for layer, _ in candidates}):
        sae, x = load(layer), residuals.after(layer)
        here = screen[screen["layer"] == layer]
        for feature in [f for place, f in candidates if place == layer]:
            columns = torch.tensor([feature, *matched_features(here, feature)])
            directions = sae.w_dec[columns.to(sae.w_dec.device)].float().cpu()
            delta = feature_delta(sae, x, flips.pairs, columns)
            other = feature_delta(sae, x, unflipped.pairs, columns[:1])[:, 0]
            found[layer, feature] = Probe(layer, feature, delta, directions, other)
    return [found[candidate] for candidate in candidates]


def joined_probes(own: list[Probe], candidates: list[tuple[int, int]], team: Team) -> list[Probe]:
    """The probes of all processes, each of which has made some, in the order of `candidates`."""
    named = {f"{p.layer}:{p.feature}:{part}": getattr(p, part) for p in own for part in Probe._fields[2:]}
    whole = {name: tensor for part in team.gather_tensors(named) for name, tensor in part.items()}
    return [
        Probe(layer, feature, *(whole[f"{layer}:{feature}:{part}"] for part in Probe._fields[2:]))
        for layer, feature in candidates
    ]


def probe_features(
    replay: SuffixRerun,
    flips: Flips,
    unflipped_replay: SuffixRerun,
    unflipped: Flips,
    residuals: Residuals,
    screen: pd.DataFrame,
    candidates: list[tuple[int, int]],
    load: Callable[[int], Sae],
    seed: int,
) -> list[FeatureTest]:
    """Patch every candidate (layer, feature) on `flips`, with its controls; in the order of `candidates`.

    `replay` and `unflipped_replay` are those of the two sets of pairs (`interp.causal.layer_patching.replay_of`).
    `residuals` are of all prompts; `screen` as of `interp.screening.feature_stats.adjust`; `load` gives a layer's SAE.
    """
    probes = probes_of(candidates, flips, unflipped, residuals, screen, load)
    return [probe_feature(probe, replay, flips, unflipped_replay, unflipped, seed) for probe in probes]


def probe_feature(
    probe: Probe, replay: SuffixRerun, flips: Flips, unflipped_replay: SuffixRerun, unflipped: Flips, seed: int
) -> FeatureTest:
    """Patch one feature; parameters as of `probe_features`."""
    n, matched = len(flips.pairs), len(probe.directions) - 1
    delta, directions = probe.delta, probe.directions
    patch = -delta[:, :1, None] * directions[:1]
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(n, generator=generator)
    swapped = torch.empty_like(delta[:, 0])
    # One behind the other in a random order: no pair keeps its own.
    swapped[order] = delta[order.roll(1), 0]
    other = -swapped[:, None, None] * directions[:1]
    patches = [
        *(dose * patch for dose in DOSES),
        other,
        -delta[:, 1:, None] * directions[1:],
        random_like(patch.expand(-1, RANDOMS, -1), generator),
    ]
    stacked = torch.cat(patches, dim=1)
    effect = patch_effect(replay, flips, [probe.layer] * stacked.shape[1], stacked, f"{probe.layer}:{probe.feature}")
    shift = flips.margin_before - flips.margin_after
    size, towards = np.abs(shift), effect * np.sign(shift)[:, None]
    share = towards.sum(0) / size.sum()
    turned = ((flips.margin_after[:, None] + effect) > 0) == (flips.margin_before > 0)[:, None]
    one, swap = DOSES.index(1.0), len(DOSES)
    like, noise = slice(swap + 1, swap + 1 + matched), slice(swap + 1 + matched, None)
    patients = flips.pairs["patient"].tolist()
    net = towards[:, one] - towards[:, noise].mean(1)
    return FeatureTest(
        layer=probe.layer,
        feature=probe.feature,
        n=n,
        recovery=ratio_interval(towards[:, one], size, patients, seed),
        random=float(share[noise].mean()),
        matched=float(share[like].mean()) if matched else float("nan"),
        swapped=float(share[swap]) if n > 1 else float("nan"),
        net=ratio_interval(net, size, patients, seed),
        # The empty patch of a feature that never moves does nothing but round.
        p=sign_flip_p(net, patients, seed) if bool(patch.any()) else 1.0,
        p_random=float((1 + (share[noise] >= share[one]).sum()) / (RANDOMS + 1)),
        reversals=int(turned[:, one].sum()),
        random_reversals=float(turned[:, noise].sum(0).mean()),
        unflipped_changed=_changed(unflipped_replay, unflipped, probe),
        dose=tuple(float(v) for v in share[: len(DOSES)]),
    )


def _changed(replay: SuffixRerun, unflipped: Flips, probe: Probe) -> float:
    """Share of unflipped pairs whose paraphrase gets another answer by the delta patch of one feature."""
    if not len(unflipped.pairs):
        return float("nan")
    patch = -probe.unflipped[:, None, None] * probe.directions[0]
    effect = patch_effect(replay, unflipped, [probe.layer], patch, "unflipped pairs")[:, 0]
    return float((((unflipped.margin_after + effect) > 0) != (unflipped.margin_after > 0)).mean())


def patch_jointly(replay: SuffixRerun, flips: Flips, joint: Tensor, layers: list[int], seed: int) -> Float:
    """Effect [n, 2, layers] of each layer's joint patch [n, layers, d_model], and of random directions of its norm."""
    generator = torch.Generator().manual_seed(seed)
    deltas = torch.cat([joint, random_like(joint, generator)], dim=1)
    return patch_effect(replay, flips, layers * 2, deltas, "joint patches").reshape(-1, 2, len(layers))


def sample_pairs(flips: Flips, count: int, seed: int) -> Flips:
    """At most `count` of the pairs, drawn at random."""
    drawn = np.zeros(len(flips.pairs), bool)
    drawn[np.random.default_rng([seed, 13]).permutation(len(drawn))[:count]] = True
    return flips.take(drawn)

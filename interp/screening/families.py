"""The family of a feature: others of its SAE that say nearly the same, by their direction or by when they are active.

An SAE may hold one concept several times: as duplicates, as features that share its occasions (splits), or as features
of other directions that move together. Undoing one of them then leaves the rest. The relatives of a feature are found
without any margin, so they may be tested on the pairs that they are found on. Which family of a layer is worth a test
is told by attribution, on the selection half.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from interp.runtime.async_copies import to_device_async
from interp.saes.sae import Sae, decoder_cosines
from interp.saes.sparse_codes import MAX_DENSE, Codes
from interp.schemas.study import Kinship, Relative
from interp.storage.json_files import significant

LEAST_COSINE = 0.5
"""Least cosine of the decoder rows of duplicates and splits."""
LEAST_R = 0.7
"""Least |correlation| of the deltas of companions and opposites."""
LEAST_OVERLAP = 0.5
"""Least share of the wordings with either feature on which duplicates are both active."""
RELATIVES = 9
"""Most relatives of a feature."""
SEEDS = 12
"""Features of a layer, those of highest path attribution, whose families are considered."""


class Family(NamedTuple):
    """A feature and its relatives, to be patched as one."""

    layer: int
    """Decoder layer."""
    features: tuple[int, ...]
    """Indices in the SAE: the feature whose relatives the others are, then these; empty if no feature is active."""
    path_attribution: float
    """Sum of the path attributions of its members: recovery predicted on the selection half."""

    @classmethod
    def of(cls, content: Sequence[Any]) -> "Family":
        """A family that was written as JSON."""
        layer, features, attribution = content
        return cls(layer, tuple(features), attribution)


class _Coactivation(NamedTuple):
    """How the features of an SAE go with k of them."""

    r: Tensor
    """float32 [k, d_sae]: correlation of their deltas over all pairs; 0 where one never varies."""
    overlap: Tensor
    """float32 [k, d_sae]: wordings on which both are active, as a share of those on which either is; 0 for none."""


def find_relatives(sae: Sae, codes: Codes, delta: Codes, feature: int) -> list[Relative]:
    """The relatives of a feature, at most RELATIVES, those whose deltas go with its own most first.

    `codes` [n prompts, d_sae] are the SAE's activations, `delta` [pairs, d_sae] their differences over all pairs of an
    original and a paraphrase (`interp.saes.sparse_codes.differences`).
    """
    return _relatives(sae, codes, delta, [feature])[0]


def best_family(sae: Sae, codes: Codes, delta: Codes, attribution: "pd.Series[float]") -> Family:
    """The family of a layer for which attribution predicts most; empty if no feature of the layer is ever active.

    `codes` [n prompts, d_sae] are the SAE's activations, `delta` [pairs, d_sae] their differences over the pairs of the
    selection half, and `attribution` is feature -> path attribution there. Only the families of the SEEDS best features
    are considered. A feature without relatives is a family of its own.
    """
    values, features = attribution.to_numpy(), attribution.index.to_numpy()
    best = features[np.argsort(-values, kind="stable")[:SEEDS]].tolist()
    if not best:
        return Family(sae.layer, (), 0.0)
    predicted = np.zeros(sae.d_sae)
    predicted[features] = np.nan_to_num(values)
    families = []
    for seed, relatives in zip(best, _relatives(sae, codes, delta, best), strict=True):
        members = (seed, *(relative.feature for relative in relatives))
        # In one order, so that seeds with the same family have the same sum, and the best seed stands first.
        families.append(Family(sae.layer, members, float(predicted[sorted(members)].sum())))
    return max(families, key=lambda family: family.path_attribution)


def _relatives(sae: Sae, codes: Codes, delta: Codes, features: Sequence[int]) -> list[list[Relative]]:
    """The relatives of each of k features."""
    own = to_device_async(torch.tensor(features), sae.w_dec.device)
    r, overlap = _coactivation(codes, delta, own)
    cosine = decoder_cosines(sae, sae.w_dec[own].T).T
    related = (cosine >= LEAST_COSINE) | (r.abs() >= LEAST_R)
    # A feature that is never active has no part in any change.
    related &= r != 0
    related.scatter_(1, own[:, None], value=False)
    order = r.abs().masked_fill(~related, -1).argsort(descending=True, stable=True)[:, :RELATIVES]
    # In main memory at once, because every copy waits for the GPU.
    found = torch.stack([order, *(each.gather(1, order).double() for each in (related, cosine, r, overlap))], 2)
    return [
        [_relative(int(feature), *values) for feature, is_related, *values in of_one if is_related]
        for of_one in found.tolist()
    ]


def _relative(feature: int, cosine: float, r: float, overlap: float) -> Relative:
    return Relative(
        feature=feature,
        kinship=_kinship(cosine, r, overlap),
        cosine=significant(cosine),
        r=significant(r),
        overlap=significant(overlap),
    )


def _kinship(cosine: float, r: float, overlap: float) -> Kinship:
    if cosine >= LEAST_COSINE:
        return "duplicate" if overlap >= LEAST_OVERLAP else "split"
    return "companion" if r > 0 else "opposite"


def _coactivation(codes: Codes, delta: Codes, own: Tensor) -> _Coactivation:
    """As many of the features int64 [k] at a time as keep what is summed within MAX_DENSE."""
    mean, square = delta.sums(torch.stack([delta.value.double(), delta.value.double() ** 2])) / max(1, delta.n)
    variance = (square - mean**2).clamp(min=0)
    most = max(1, MAX_DENSE // max(1, len(codes.value), len(delta.value)))
    parts = [_coactive(codes, delta, mean, variance, some) for some in own.split(most)]
    return _Coactivation(*(torch.cat(each) for each in zip(*parts, strict=True)))


def _coactive(codes: Codes, delta: Codes, mean: Tensor, variance: Tensor, own: Tensor) -> _Coactivation:
    """`mean` and `variance` float64 [d_sae] are those of the deltas."""
    moved = delta.spread(own, delta.value.double())
    product = delta.sums(delta.value * moved[:, delta.row]) / max(1, delta.n)
    spread = (variance * variance[own, None]).sqrt()
    r = torch.where(spread > 0, (product - mean * mean[own, None]) / spread.clamp_min(1e-30), 0.0)
    on = codes.spread(own, torch.ones_like(codes.value, dtype=torch.bool))
    both = codes.sums(on[:, codes.row])
    either = codes.counts + on.sum(1, keepdim=True) - both
    return _Coactivation(r.float(), (both / either.clamp_min(1)).float())

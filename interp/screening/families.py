"""The family of a feature: others of its SAE that say nearly the same, by their direction or by when they are active.

An SAE may hold one concept several times: as duplicates, as features that share its occasions (splits), or as features
of other directions that move together. Undoing one of them then leaves the rest. The relatives of a feature are found
without any margin, so they may be tested on the pairs that they are found on. Which family of a layer is worth a test
is told by attribution, on the selection half.
"""

from collections.abc import Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from interp.saes.sae import Sae, decoder_cosines
from interp.saes.sparse_codes import MAX_DENSE, Codes, differences
from interp.schemas.study import Kinship, Relative
from interp.screening.flips import sides
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


class _Deltas(NamedTuple):
    """The activations of an SAE on n prompts and their differences over all pairs."""

    codes: Codes
    """[n, d_sae]."""
    active: Tensor
    """float64 [d_sae]: number of prompts on which a feature is active."""
    delta: Codes
    """[pairs, d_sae]: f(p) - f(q)."""
    mean: Tensor
    """float64 [d_sae]: mean delta."""
    variance: Tensor
    """float64 [d_sae]: variance of the delta."""

    @classmethod
    def of(cls, codes: Codes, pairs: pd.DataFrame) -> "_Deltas":
        delta = differences(codes, *sides(pairs))
        n = max(1, delta.n)
        mean, square = delta.sums(delta.value) / n, delta.sums(delta.value.double() ** 2) / n
        active = codes.sums(torch.ones_like(codes.value))
        return cls(codes, active, delta, mean, (square - mean**2).clamp(min=0))


class _Coactivation(NamedTuple):
    """How the features of an SAE go with k of them."""

    r: Tensor
    """float32 [k, d_sae]: correlation of their deltas over all pairs; 0 where one never varies."""
    overlap: Tensor
    """float32 [k, d_sae]: wordings on which both are active, as a share of those on which either is; 0 for none."""


def find_relatives(sae: Sae, codes: Codes, pairs: pd.DataFrame, feature: int) -> list[Relative]:
    """The relatives of a feature, at most RELATIVES, those whose deltas go with its own most first.

    `codes` [n prompts, d_sae] are the SAE's activations, `pairs` all pairs of an original and a paraphrase.
    """
    return _relatives(sae, _Deltas.of(codes, pairs), [feature])[0]


def best_family(sae: Sae, codes: Codes, pairs: pd.DataFrame, attribution: "pd.Series[float]") -> Family:
    """The family of a layer for which attribution predicts most; empty if no feature of the layer is ever active.

    `codes` [n prompts, d_sae] are the SAE's activations, and `attribution` is feature -> path attribution on the
    selection half, whose pairs are `pairs`. Only the families of the SEEDS best features are considered. A feature
    without relatives is a family of its own.
    """
    best = [int(f) for f in attribution.sort_values(ascending=False, kind="stable").index[:SEEDS]]
    if not best:
        return Family(sae.layer, (), 0.0)
    predicted = np.zeros(sae.d_sae)
    predicted[attribution.index] = attribution.fillna(0.0)
    families = []
    for seed, relatives in zip(best, _relatives(sae, _Deltas.of(codes, pairs), best), strict=True):
        members = (seed, *(relative.feature for relative in relatives))
        # In one order, so that seeds with the same family have the same sum, and the best seed stands first.
        families.append(Family(sae.layer, members, float(predicted[sorted(members)].sum())))
    return max(families, key=lambda family: family.path_attribution)


def _relatives(sae: Sae, deltas: _Deltas, features: Sequence[int]) -> list[list[Relative]]:
    """The relatives of each of k features."""
    r, overlap = _coactivation(deltas, features)
    own = torch.tensor(features, device=r.device)
    cosine = decoder_cosines(sae, sae.w_dec[own].T).T
    related = (cosine >= LEAST_COSINE) | (r.abs() >= LEAST_R)
    # A feature that is never active has no part in any change.
    related &= r != 0
    related.scatter_(1, own[:, None], value=False)
    order = r.abs().masked_fill(~related, -1).argsort(descending=True, stable=True)[:, :RELATIVES]
    # In main memory at once, because every copy waits for the GPU.
    count = related.sum(1).tolist()
    index, *values = (each.tolist() for each in (order, *(each.gather(1, order) for each in (cosine, r, overlap))))
    return [
        [_relative(*each) for each in islice(zip(index[k], *(of_all[k] for of_all in values), strict=True), count[k])]
        for k in range(len(features))
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


def _coactivation(deltas: _Deltas, features: Sequence[int]) -> _Coactivation:
    """As many features at a time as keep what is summed within MAX_DENSE."""
    most = max(1, MAX_DENSE // max(1, len(deltas.codes.value), len(deltas.delta.value)))
    parts = [_coactive(deltas, features[start : start + most]) for start in range(0, len(features), most)]
    return _Coactivation(*(torch.cat(each) for each in zip(*parts, strict=True)))


def _coactive(deltas: _Deltas, features: Sequence[int]) -> _Coactivation:
    codes, active, delta, mean, variance = deltas
    n, device = max(1, delta.n), delta.value.device
    own = torch.tensor(features, device=device)
    moved = _rows_of(delta, own, delta.value.double(), n)
    product = delta.sums(delta.value * moved[:, delta.row]) / n
    spread = (variance * variance[own, None]).sqrt()
    r = torch.where(spread > 0, (product - mean * mean[own, None]) / spread.clamp_min(1e-30), 0.0)
    on = _rows_of(codes, own, torch.ones_like(codes.value, dtype=torch.bool), codes.n)
    both = codes.sums(on[:, codes.row])
    either = active + on.sum(1, keepdim=True) - both
    return _Coactivation(r.float(), (both / either.clamp_min(1)).float())


def _rows_of(codes: Codes, features: Tensor, values: Tensor, n: int) -> Tensor:
    """The `values` [entries] of k features by row, zero in rows without an entry: [k, n]."""
    which = torch.full((codes.d_sae,), -1, device=features.device)
    which[features] = torch.arange(len(features), device=features.device)
    place = which[codes.feature]
    # What is of none of them goes to a last row, which is dropped.
    found = values.new_zeros(len(features) + 1, n)
    found[place, codes.row] = values
    return found[:-1]

"""The family of a feature: others of its SAE that say nearly the same, by their direction or by when they are active.

An SAE may hold one concept several times: as duplicates, as features that share its occasions (splits), or as features
of other directions that move together. Undoing one of them then leaves the rest. The relatives of a feature are found
without any margin, so they may be tested on the pairs that they are found on. Which family of a layer is worth a test
is told by attribution, on the selection half.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from interp.saes.sae import Sae, decoder_cosines
from interp.saes.sparse_codes import Codes, differences
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
    """How the features of an SAE go with one of them."""

    r: Tensor
    """[d_sae]: correlation of their deltas over all pairs; 0 where one never varies."""
    overlap: Tensor
    """[d_sae]: wordings on which both are active, as a share of those on which either is; 0 where there are none."""


def find_relatives(sae: Sae, codes: Codes, pairs: pd.DataFrame, feature: int) -> list[Relative]:
    """The relatives of a feature, at most RELATIVES, those whose deltas go with its own most first.

    `codes` [n prompts, d_sae] are the SAE's activations, `pairs` all pairs of an original and a paraphrase.
    """
    return _relatives(sae, _Deltas.of(codes, pairs), feature)


def best_family(sae: Sae, codes: Codes, pairs: pd.DataFrame, attribution: "pd.Series[float]") -> Family:
    """The family of a layer for which attribution predicts most; empty if no feature of the layer is ever active.

    `codes` [n prompts, d_sae] are the SAE's activations, and `attribution` is feature -> path attribution on the
    selection half, whose pairs are `pairs`. Only the families of
    the SEEDS best features are considered. A feature without relatives is a family of its own.
    """
    best = attribution.sort_values(ascending=False, kind="stable").index[:SEEDS]
    if not len(best):
        return Family(sae.layer, (), 0.0)
    deltas = _Deltas.of(codes, pairs)
    families = []
    for seed in map(int, best):
        members = (seed, *(relative.feature for relative in _relatives(sae, deltas, seed)))
        # In one order, so that seeds with the same family have the same sum, and the best seed stands first.
        total = float(attribution.reindex(sorted(members)).fillna(0.0).sum())
        families.append(Family(sae.layer, members, total))
    return max(families, key=lambda family: family.path_attribution)


def _relatives(sae: Sae, deltas: _Deltas, feature: int) -> list[Relative]:
    r, overlap = _coactivation(deltas, feature)
    cosine = decoder_cosines(sae, sae.w_dec[feature])
    related = (cosine >= LEAST_COSINE) | (r.abs() >= LEAST_R)
    # A feature that is never active has no part in any change.
    related &= r != 0
    related[feature] = False
    order = r.abs().masked_fill(~related, -1).argsort(descending=True)[: min(RELATIVES, int(related.sum()))]
    return [
        Relative(
            feature=i,
            kinship=_kinship(float(cosine[i]), float(r[i]), float(overlap[i])),
            cosine=significant(float(cosine[i])),
            r=significant(float(r[i])),
            overlap=significant(float(overlap[i])),
        )
        for i in order.tolist()
    ]


def _kinship(cosine: float, r: float, overlap: float) -> Kinship:
    if cosine >= LEAST_COSINE:
        return "duplicate" if overlap >= LEAST_OVERLAP else "split"
    return "companion" if r > 0 else "opposite"


def _coactivation(deltas: _Deltas, feature: int) -> _Coactivation:
    codes, active, delta, mean, variance = deltas
    n = max(1, delta.n)
    own = torch.zeros(n, dtype=torch.double, device=delta.value.device)
    mine = delta.feature == feature
    own[delta.row[mine]] = delta.value[mine].double()
    product = delta.sums(delta.value * own[delta.row]) / n
    spread = (variance * variance[feature]).sqrt()
    r = torch.where(spread > 0, (product - mean * mean[feature]) / spread.clamp_min(1e-30), 0.0)
    on = torch.zeros(codes.n, dtype=torch.bool, device=codes.row.device)
    on[codes.row[codes.feature == feature]] = True
    both = codes.sums(on[codes.row])
    either = active + int(on.sum()) - both
    return _Coactivation(r.float().cpu(), (both / either.clamp_min(1)).float().cpu())

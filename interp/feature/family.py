"""The family of a feature: others of its SAE that say nearly the same, by their direction or by when they are active.

An SAE may hold one concept several times: as duplicates, as features that share its occasions (splits), or as features
of other directions that move together. Undoing one of them then leaves the rest. The family is chosen without any
margin, so it may be tested on the pairs that it is chosen on.
"""

from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from interp.feature.weights import decoder_cosines
from interp.saes.sae import Sae
from interp.saes.sparse_codes import differences, encode_sparse
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


class _Coactivation(NamedTuple):
    """How the features of an SAE go with one of them."""

    r: Tensor
    """[d_sae]: correlation of their deltas over all pairs; 0 where one never varies."""
    overlap: Tensor
    """[d_sae]: wordings on which both are active, as a share of those on which either is; 0 where there are none."""


def find_relatives(sae: Sae, residuals: Tensor, pairs: pd.DataFrame, feature: int) -> list[Relative]:
    """The relatives of a feature, at most RELATIVES, those whose deltas go with its own most first.

    `residuals` [n prompts, d_model] are those of the SAE's layer, `pairs` all pairs of an original and a paraphrase.
    """
    r, overlap = _coactivation(sae, residuals, pairs, feature)
    cosine = decoder_cosines(sae, feature)
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


def _coactivation(sae: Sae, residuals: Tensor, pairs: pd.DataFrame, feature: int) -> _Coactivation:
    codes, n = encode_sparse(sae, residuals), max(1, len(pairs))
    delta = differences(codes, *sides(pairs))
    own = torch.zeros(n, dtype=torch.double, device=delta.value.device)
    mine = delta.feature == feature
    own[delta.row[mine]] = delta.value[mine].double()
    mean, square = delta.sums(delta.value) / n, delta.sums(delta.value.double() ** 2) / n
    product = delta.sums(delta.value * own[delta.row]) / n
    variance = (square - mean**2).clamp(min=0)
    spread = (variance * variance[feature]).sqrt()
    r = torch.where(spread > 0, (product - mean * mean[feature]) / spread.clamp_min(1e-30), 0.0)
    on = torch.zeros(len(residuals), dtype=torch.bool, device=codes.row.device)
    on[codes.row[codes.feature == feature]] = True
    active, both = codes.sums(torch.ones_like(codes.value)), codes.sums(on[codes.row])
    either = active + int(on.sum()) - both
    return _Coactivation(r.float().cpu(), (both / either.clamp_min(1)).float().cpu())

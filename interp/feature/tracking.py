"""How a feature's delta follows the margin shift."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp.saes.sae import Sae
from interp.schemas.record import interval_of
from interp.schemas.study import Tracking
from interp.screening.flips import Flips, sides
from interp.statistics import auc, correlation, resampled


def track_margin(
    sae: Sae, residuals: Tensor, feature: int, flips: Flips, delta: NDArray[np.float64], seed: int
) -> Tracking:
    """Compare the feature's `delta` [pairs] with the margin shift; intervals are bootstraps over patients.

    `residuals` [n prompts, d_model] are those of the SAE's layer.
    """
    patients = flips.pairs["patient"].tolist()
    shift, size = flips.margin_after - flips.margin_before, np.abs(delta)
    return Tracking(
        pairs=len(delta),
        flips=int(flips.flipped.sum()),
        r=interval_of(resampled(lambda rows: correlation(delta[rows], shift[rows]), patients, seed)),
        flip_auc=interval_of(resampled(lambda rows: float(auc(size[rows], flips.flipped[rows])[0]), patients, seed)),
        largest=largest_among_flips(sae, residuals, feature, flips),
    )


def largest_among_flips(sae: Sae, residuals: Tensor, feature: int, flips: Flips) -> int:
    """Number of flips in which no feature of the SAE has a larger |delta| than `feature`; parameters as above."""
    device = sae.w_enc.device
    columns = sides(flips.pairs[flips.flipped])
    count = 0
    for part in torch.arange(len(columns[0])).split(128):
        before, after = (sae.encode(residuals[column[part]].to(device)) for column in columns)
        size = (after - before).abs()
        count += int(((size[:, feature] > 0) & (size[:, feature] >= size.amax(1))).sum())
    return count

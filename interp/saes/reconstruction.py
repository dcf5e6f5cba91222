"""How well an SAE describes residuals that it was not trained on, and whether that is enough."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp.saes.sae import Sae
from interp.schemas.layers import TransferVerdict
from interp.statistics import Estimate, cluster_of, ratio_interval

R2_NEEDED = 0.95
"""The least R² at which the published work calls an SAE carried over."""


class Reconstruction(NamedTuple):
    """What an SAE makes of n residuals."""

    error: NDArray[np.float64]
    """[n] squared error of each reconstruction."""
    total: NDArray[np.float64]
    """[n] squared distance of each residual from their mean."""
    active: NDArray[np.int64]
    """[n] number of active features."""
    mean: Tensor
    """float32 [d_sae]: mean activation of every feature."""


class Fit(NamedTuple):
    """How well an SAE describes some residuals."""

    fvu: float
    """Fraction of variance unexplained: sum of squared errors over that about the mean."""
    r2: float
    """1 - fvu."""
    l0: float
    """Mean number of active features."""
    dead: float
    """Share of features that are active on none of these residuals."""


class Transfer(NamedTuple):
    """Whether an SAE describes a model's residuals well enough to speak of its features there."""

    r2: Estimate
    """R² with its 95% bootstrap interval over prompts (or patients)."""
    p: float
    """One-sided p against R² <= R2_NEEDED."""
    verdict: TransferVerdict
    """pass if R² is above R2_NEEDED at p < .05, fail if below it at p < .05, else unclear."""


def reconstruct(sae: Sae, residuals: Tensor, chunk: int = 1024) -> Reconstruction:
    """Encode and decode residuals [n, d_model]; `chunk` of them are on the SAE's device, as activations, at once."""
    device = sae.w_enc.device
    centre = torch.zeros(residuals.shape[1], device=device)
    for part in residuals.split(chunk):
        centre += part.to(device).float().sum(0) / len(residuals)
    mean = torch.zeros(sae.d_sae, device=device)
    errors, totals, active = [], [], []
    for part in residuals.split(chunk):
        # Made float32 there: a processor takes longer for that than a GPU for all the rest.
        x = part.to(device).float()
        f = sae.encode(x)
        errors.append((x - sae.decode(f)).pow(2).sum(1))
        totals.append((x - centre).pow(2).sum(1))
        active.append((f > 0).sum(1))
        mean += f.sum(0) / len(residuals)
    return Reconstruction(
        torch.cat(errors).double().cpu().numpy(),
        torch.cat(totals).double().cpu().numpy(),
        torch.cat(active).cpu().numpy(),
        mean.cpu(),
    )


def summarize(found: Reconstruction) -> Fit:
    """The four numbers of a reconstruction."""
    fvu = float(found.error.sum() / found.total.sum())
    return Fit(fvu, 1 - fvu, float(found.active.mean()), float((found.mean == 0).float().mean()))


def fit(sae: Sae, residuals: Tensor) -> Fit:
    """Reconstruction quality on residuals [n, d_model]."""
    return summarize(reconstruct(sae, residuals))


def judge_transfer(found: Reconstruction, clusters: Sequence[object], seed: int, needed: float = R2_NEEDED) -> Transfer:
    """Test R² against `needed`, as the published work does, by a one-sided t test.

    R² > needed means that (1 - needed) * total - error, summed over the tokens of a cluster (prompt or patient,
    `clusters` [n]), has a mean above zero; that is what is tested, clusters being independent.
    """
    from scipy.stats import ttest_1samp

    member = cluster_of(clusters)
    error, total = (np.bincount(member, values).astype(float) for values in (found.error, found.total))
    r2 = ratio_interval(found.total - found.error, found.total, clusters, seed)
    surplus = (1 - needed) * total - error
    above, below = (float(ttest_1samp(surplus, 0, alternative=side).pvalue) for side in ("greater", "less"))
    verdict: TransferVerdict = "pass" if above < 0.05 else "fail" if below < 0.05 else "unclear"
    return Transfer(r2, above, verdict)


def feature_drift(found: Reconstruction, reference: Reconstruction) -> float:
    """Cosine distance of the features' mean activations on two sets of residuals: 0 alike, 1 nothing in common."""
    alike = torch.nn.functional.cosine_similarity(found.mean.double(), reference.mean.double(), dim=0)
    return max(0.0, 1 - float(alike))

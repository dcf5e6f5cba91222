"""How well an SAE reconstructs residuals of a model that it was not trained on, and whether that is enough."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp.saes.sae import Sae
from interp.saes.sparse_codes import Activations, decode_rows, encode_sparse
from interp.schemas.layers import TransferVerdict
from interp.statistics import Estimate, ratio_t_test

R2_NEEDED = 0.95
"""R² above which the published work calls an SAE transferred."""
LEVEL = 0.025
"""A one-sided p below this decides a verdict: then the two-sided 95% interval lies on one side of R2_NEEDED."""


class Reconstruction(NamedTuple):
    """Reconstruction of n residuals by an SAE."""

    error: NDArray[np.float64]
    """Squared error of each reconstruction: float64 [n]."""
    total: NDArray[np.float64]
    """Squared distance of each residual from the mean residual: float64 [n]."""
    active: NDArray[np.int64]
    """Number of active features on each residual: int64 [n]."""
    mean: Tensor
    """Mean activation of every feature: float32 [d_sae]."""


class Fit(NamedTuple):
    """How well an SAE reconstructs some residuals."""

    fvu: float
    """Fraction of variance unexplained: sum of squared errors over sum of squared distances from the mean."""
    r2: float
    """Explained variance, 1 - fvu."""
    l0: float
    """Mean number of active features per residual."""
    dead: float
    """Share of features that are active on no residual."""


class Transfer(NamedTuple):
    """Whether an SAE reconstructs a model's residuals well enough to interpret its features there."""

    r2: Estimate
    """R² with its 95% interval over patients (or prompts without one)."""
    p: float
    """One-sided p-value against R² <= R2_NEEDED."""
    verdict: TransferVerdict
    """pass if the interval lies above R2_NEEDED, fail if below it, else unclear."""


def reconstruct(
    sae: Sae, residuals: Tensor, chunk: int = 4096, activations: Activations | None = None
) -> Reconstruction:
    """Encode and decode residuals [n, d_model], at most `chunk` of them at once.

    `activations` are those on these residuals, if they are known already.
    """
    device = sae.w_enc.device
    rows, codes = encode_sparse(sae, residuals) if activations is None else activations
    centre = torch.zeros(residuals.shape[1], device=device)
    for part in residuals.split(chunk):
        centre += part.to(device).float().sum(0) / len(residuals)
    errors, totals = [], []
    for start in range(0, len(residuals), chunk):
        # Converted to float32 on the device: on a CPU this would take longer than everything else.
        x = residuals[start : start + chunk].to(device).float()
        errors.append((x - decode_rows(sae, rows, start, start + len(x))).pow(2).sum(1))
        totals.append((x - centre).pow(2).sum(1))
    error, total = torch.stack([torch.cat(errors), torch.cat(totals)]).double().cpu().numpy()
    return Reconstruction(
        error,
        total,
        rows.start.diff().numpy(),
        (codes.sums(codes.value) / len(residuals)).float().cpu(),
    )


def summarize(found: Reconstruction) -> Fit:
    """Summarize a reconstruction in four numbers."""
    fvu = float(found.error.sum() / found.total.sum())
    return Fit(fvu, 1 - fvu, float(found.active.mean()), float((found.mean == 0).float().mean()))


def fit(sae: Sae, residuals: Tensor) -> Fit:
    """Reconstruction quality of an SAE on residuals [n, d_model]."""
    return summarize(reconstruct(sae, residuals))


def judge_transfer(found: Reconstruction, clusters: Sequence[object], needed: float = R2_NEEDED) -> Transfer:
    """Test R² against `needed` with one-sided t tests, as the published work does.

    `clusters` [n] are the independent units (patients, or prompts without a patient) of the residuals. R² > needed
    means that (1 - needed) * total - error, summed over the residuals of a cluster, has a mean above zero, and this is
    tested. The interval inverts the same test (`interp.statistics.ratio_t_test`), and decides the verdict.
    """
    r2, above, below = ratio_t_test(found.total - found.error, found.total, clusters, needed)
    verdict: TransferVerdict = "pass" if above < LEVEL else "fail" if below < LEVEL else "unclear"
    return Transfer(r2, above, verdict)


def feature_drift(found: Reconstruction, reference: Reconstruction) -> float:
    """Cosine distance between the features' mean activations on two sets of residuals: 0 equal, 1 nothing in common."""
    alike = torch.nn.functional.cosine_similarity(found.mean.double(), reference.mean.double(), dim=0)
    return max(0.0, 1 - float(alike))

"""Attribution: one backward pass predicts the effect of every feature's patch at every layer, to first order.

The effect of a feature patch, m(x_p - delta_f * W_dec) - m(x_p), is -(dm/dx . W_dec) * delta_f if the margin is linear
in between (attribution patching, Nanda 2023; for features, Marks et al., arXiv 2403.19647). Where the margin is curved,
the gradient can be averaged over points on the path from the paraphrase's residual to the original's (integrated
gradients, Sundararajan et al., arXiv 1703.01365). The attributions of all features then sum to the whole shift, but
each is a share of the joint change, not the effect of patching that feature alone.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp.measurement.suffix_rerun import EDIT_BYTES, SuffixRerun
from interp.saes.sae import Sae
from interp.screening.flips import Flips, sides

PATH_STEPS = 8
"""Points on a path at which the gradient is taken."""


def margin_gradients(rerun: SuffixRerun, layers: Sequence[int]) -> Tensor:
    """dm/dx of the final-token residual of each prompt after each layer: float32 [n, layers, d_model]."""
    no_change = torch.zeros(len(rerun.prompts), len(layers), rerun.vlm.d_model)
    return rerun.gradients(layers, no_change)


def path_gradients(rerun: SuffixRerun, path: Tensor, layers: Sequence[int], steps: int = PATH_STEPS) -> Tensor:
    """dm/dx after each layer, averaged over `steps` points on a straight path: float32 [n, layers, d_model].

    `path` [n, layers, d_model] leads from each prompt's residual after a layer: the original's residual minus the
    paraphrase's. The points are the midpoints of equal parts of it.
    """
    points = (torch.arange(steps) + 0.5) / steps
    # The more layers share a sweep, the fewer launches of kernels; their points take `steps` times their memory.
    together = max(1, EDIT_BYTES // max(1, 4 * steps * path[:, 0].numel()))
    found = []
    for part in torch.arange(len(layers)).split(together):
        moved = path[:, part, None] * points[:, None]
        places = [layers[k] for k in part for _ in range(steps)]
        found.append(rerun.gradients(places, moved.flatten(1, 2)).view(moved.shape).mean(2))
    return torch.cat(found, dim=1) if found else path


def attribute(sae: Sae, residuals: Tensor, flips: Flips, gradients: Tensor) -> NDArray[np.float64]:
    """First-order prediction of the recovery by every feature's patch on these pairs: [d_sae]; zeros without pairs.

    `residuals` [n prompts, d_model] are those of the SAE's layer; `gradients` [pairs, d_model] are taken at the
    paraphrases.
    """
    if not len(flips.pairs):
        return np.zeros(sae.d_sae)
    device = sae.w_enc.device
    sign = torch.from_numpy(np.sign(flips.margin_before - flips.margin_after)).float().to(device)
    score = torch.zeros(sae.d_sae, device=device)
    columns = sides(flips.pairs)
    for part in torch.arange(len(flips.pairs)).split(128):
        before, after = (sae.encode(residuals[column[part]].to(device)) for column in columns)
        slope = (gradients[part].to(device, sae.w_dec.dtype) @ sae.w_dec.T).float()
        score += (sign[part.to(device), None] * slope * (before - after)).sum(0)
    return score.double().cpu().numpy() / np.abs(flips.margin_before - flips.margin_after).sum()

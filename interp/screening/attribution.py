"""Attribution: one backward pass says what the delta patch of every feature of every layer would do, to first order.

The effect of a delta patch, m(x_p - delta_f * W_dec) - m(x_p), is -(dm/dx . W_dec) * delta_f where the margin is
straight in between (attribution patching, Nanda 2023; of features, Marks et al., arXiv 2403.19647). Where it is bent,
the gradient can be averaged over points on the way from the paraphrase's residual to the original's (integrated
gradients, Sundararajan et al., arXiv 1703.01365): the features' shares then add up to the whole shift, but they are
shares of the joint change, not what a patch of one feature does.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp.measurement.suffix_rerun import SuffixRerun
from interp.saes.sae import Sae
from interp.screening.flips import Flips, sides


def margin_gradients(replay: SuffixRerun, layers: Sequence[int]) -> Tensor:
    """dm/dx of the final-token residual of each prompt after each layer: float32 [n, layers, d_model]."""
    still = torch.zeros(len(replay.prompts), len(layers), replay.vlm.d_model)
    return replay.slopes(layers, still)


def path_gradients(replay: SuffixRerun, way: Tensor, layer: int, steps: int) -> Tensor:
    """dm/dx after one layer, averaged over `steps` points on `way` from each prompt's residual: float32 [n, d_model].

    `way` [n, d_model] is the original's residual less the paraphrase's. The points are the middles of equal parts.
    """
    points = (torch.arange(steps) + 0.5) / steps
    return replay.slopes([layer] * steps, way[:, None] * points[None, :, None]).mean(1)


def attribute(sae: Sae, residuals: Tensor, flips: Flips, gradients: Tensor) -> NDArray[np.float64]:
    """The recovery that the delta patch of every feature would have on these pairs, to first order: [d_sae]; 0 if none.

    `residuals` [n prompts, d_model] of the SAE's layer; `gradients` [pairs, d_model] at the paraphrases.
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

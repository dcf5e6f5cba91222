"""Attribution: one backward pass predicts the effect of every feature's patch at every layer, to first order.

The effect of a feature patch, m(x_p - delta_f * W_dec) - m(x_p), is -(dm/dx . W_dec) * delta_f if the margin is linear
in between (attribution patching, Nanda 2023; for features, Marks et al., arXiv 2403.19647). Where the margin is curved,
the gradient can be averaged over points on the path from the paraphrase's residual to the original's (integrated
gradients, Sundararajan et al., arXiv 1703.01365). The attributions of all features then sum to the whole shift, but
each is a share of the joint change, not the effect of patching that feature alone.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp.measurement.suffix_rerun import SuffixRerun
from interp.runtime.async_copies import to_device_async
from interp.saes.sae import Sae
from interp.screening.flips import Flips, sides

PATH_STEPS = 8
"""Points on a path at which the gradient is taken."""


def margin_gradients(rerun: SuffixRerun, layers: Sequence[int]) -> Tensor:
    """dm/dx of the final-token residual of each prompt after each layer: float32 [n, layers, d_model]."""
    no_change = torch.zeros(len(rerun.prompts), len(layers), rerun.vlm.d_model)
    return rerun.gradients(layers, no_change)


class PathPoints(NamedTuple):
    """Points on straight paths from n residuals after each of some layers, made when their gradients are taken."""

    path: Tensor
    """float32 [n, layers, d_model]: the whole paths."""
    points: Tensor
    """float32 [steps]: the share of the path to each point. The points of a layer follow each other."""

    @property
    def shape(self) -> torch.Size:
        """n, the number of points of each, and d_model."""
        n, layers, d_model = self.path.shape
        return torch.Size([n, layers * len(self.points), d_model])

    def of(self, rows: Tensor, edits: Tensor, device: torch.device) -> Tensor:
        """The edits int64 [k] of the residuals int64 [m], on a device: float32 [m, k, d_model]."""
        steps = len(self.points)
        given = (self.path[rows], edits // steps, self.points[edits % steps, None])
        path, place, share = (to_device_async(each, device) for each in given)
        return path[:, place] * share

    def tensors(self) -> dict[str, Tensor]:
        """What the points follow from, by name."""
        return self._asdict()


def path_gradients(rerun: SuffixRerun, path: Tensor, layers: Sequence[int], steps: int = PATH_STEPS) -> Tensor:
    """dm/dx after each layer, averaged over `steps` points on a straight path: float32 [n, layers, d_model].

    `path` [n, layers, d_model] leads from each prompt's residual after a layer: the original's residual minus the
    paraphrase's. The points are the midpoints of equal parts of it.
    """
    points = PathPoints(path, (torch.arange(steps) + 0.5) / steps)
    return rerun.gradients([layer for layer in layers for _ in range(steps)], points, steps=steps)


def attribute(sae: Sae, residuals: Tensor, flips: Flips, *gradients: Tensor) -> NDArray[np.float64]:
    """First-order predictions of the recovery by every feature's patch on these pairs, one for each of `gradients`.

    `residuals` [n prompts, d_model] are those of the SAE's layer; `gradients` [pairs, d_model] are taken at the
    paraphrases. The result is [number of gradients, d_sae], zeros without pairs.
    """
    device, shift = sae.w_enc.device, flips.margin_before - flips.margin_after
    score = torch.zeros(len(gradients), sae.d_sae, device=device)
    if not len(shift):
        return score.double().cpu().numpy()
    sign = torch.from_numpy(np.sign(shift)).float()[:, None]
    rows = torch.stack(sides(flips.pairs), 1)
    for part in torch.arange(len(shift)).split(128):
        x = residuals[to_device_async(rows[part].T.flatten(), residuals.device)].to(device)
        before, after = sae.encode(x).chunk(2)
        # The sign of the shift comes in here, where it changes no digit: [number of gradients, pairs, d_model].
        slopes = to_device_async(torch.stack([gradient[part] for gradient in gradients]) * sign[part], device)
        slope = (slopes.to(sae.w_dec.dtype) @ sae.w_dec.T).float()
        score += (slope * (before - after)).sum(1)
    return score.double().cpu().numpy() / np.abs(shift).sum()

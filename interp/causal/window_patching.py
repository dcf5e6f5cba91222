"""Window patches: what some adjacent layers add to the difference between two wordings is exchanged, and only that.

Let D(l) be the residual of the original minus that of the paraphrase at the final token after layer l. The window patch
of layers a..b adds D(b) - D(a-1) after layer b of the paraphrase, and the layers above run on, so its effect is a total
effect. It *restores* the original's answer if what the window adds is enough for the flip (sufficiency). Subtracted
from the original's residual, the same vector *breaks* its answer if nothing outside the window makes up for it
(necessity). The window of layers 0..b is the residual patch of layer b.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp.causal.layer_patching import PatchTarget, random_directions
from interp.measurement.suffix_rerun import SuffixRerun

RANDOMS = 8
"""Random directions per pair and window, which are averaged."""


class WindowEffect(NamedTuple):
    """What a window patch does to n pairs, positive towards the answer of the other wording."""

    restored: NDArray[np.float64]
    """[n]: change of the paraphrase's margin towards that of the original [logits]."""
    broken: NDArray[np.float64]
    """[n]: change of the original's margin towards that of the paraphrase [logits]."""
    random_restored: NDArray[np.float64]
    """[n]: the same as `restored` by random directions of the same norm, mean over RANDOMS."""
    random_broken: NDArray[np.float64]
    """[n]: the same as `broken` by random directions of the same norm, mean over RANDOMS."""


def patch_window(target: PatchTarget, originals: SuffixRerun, added: Tensor, last: int, seed: int) -> WindowEffect:
    """Patch one window of every pair in both directions.

    `originals` are the runs of the pairs' original wordings. `added` float32 [n, d_model] is D(b) - D(a-1), and `last`
    is layer b.
    """
    generator = torch.Generator().manual_seed(seed)
    random = random_directions(added[:, None].expand(-1, RANDOMS, -1), generator)
    edits = torch.cat([added[:, None], random], dim=1)
    layers = [last] * edits.shape[1]
    sign = np.sign(target.shift)[:, None]
    restored = target.effect(layers, edits, "window patches") * sign
    margin = originals.margins(layers, -edits, "window patches, reversed").double().numpy()
    broken = (target.flips.margin_before[:, None] - margin) * sign
    return WindowEffect(restored[:, 0], broken[:, 0], restored[:, 1:].mean(1), broken[:, 1:].mean(1))

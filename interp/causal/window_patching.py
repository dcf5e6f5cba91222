"""Window patches: what some adjacent layers add to the difference between two wordings is exchanged, and only that.

Let D(l) be the residual of the original minus that of the paraphrase at the final token after layer l. The window patch
of layers a..b adds D(b) - D(a-1) after layer b of the paraphrase, and the layers above run on, so its effect is a total
effect. It *restores* the original's answer if what the window adds is enough for the flip (sufficiency). Subtracted
from the original's residual, the same vector *breaks* its answer if nothing outside the window makes up for it
(necessity). The window of layers 0..b is the residual patch of layer b.
"""

from collections.abc import Sequence
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


def patch_windows(
    target: PatchTarget, originals: SuffixRerun, added: Tensor, last: Sequence[int], seed: int
) -> list[WindowEffect]:
    """Patch w windows of every pair in both directions, one at a time.

    `originals` are the runs of the pairs' original wordings. `added` float32 [n, w, d_model] is D(b) - D(a-1), and
    `last` [w] is layer b.
    """
    generators = (torch.Generator().manual_seed(seed) for _ in last)
    parts = zip(added.split(1, dim=1), generators, strict=True)
    edits = torch.cat(
        [torch.cat([own, random_directions(own.expand(-1, RANDOMS, -1), generator)], 1) for own, generator in parts], 1
    )
    layers = [layer for layer in last for _ in range(1 + RANDOMS)]
    sign = np.sign(target.shift)[:, None]
    restored = target.effect(layers, edits, "window patches") * sign
    margin = originals.margins(layers, -edits, "window patches, reversed").double().numpy()
    broken = (target.flips.margin_before[:, None] - margin) * sign
    by_window = (np.split(effect, len(last), axis=1) for effect in (restored, broken))
    return [
        WindowEffect(there[:, 0], back[:, 0], there[:, 1:].mean(1), back[:, 1:].mean(1))
        for there, back in zip(*by_window, strict=True)
    ]

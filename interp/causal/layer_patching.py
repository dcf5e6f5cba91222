"""Patches of the final token, layer by layer: the original wording's state put into the paraphrase's run.

The *layer patch* replaces the whole residual after a layer: the most that any feature there can recover. It is high
wherever the final token carries what differs between the wordings, be it the register before a gate or the answer
behind it. The *write patch* says which layers turn the one into the other: only what the layer itself adds to the
residual is exchanged, and it is read directly, added to the last layer's output.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp.measurement.suffix_rerun import SuffixRerun
from interp.model.vlm import Vlm
from interp.runtime.distributed import ALONE, Team
from interp.screening.flips import Flips
from interp.storage.checkpoint import NO_CHECKPOINT, Checkpoint


class LayerPatch(NamedTuple):
    """Effects of the layer patch and of its control on each of n pairs, at each of the layers."""

    shift: NDArray[np.float64]
    """[n]: m(q) - m(p) [logits], what a full recovery would restore."""
    effect: NDArray[np.float64]
    """[n, layers]: m(p') - m(p) [logits] with the residual of q put in."""
    control: NDArray[np.float64]
    """[n, layers]: the same with a random direction of the same norm added instead."""
    write: NDArray[np.float64]
    """[n, layers]: m(p') - m(p) [logits] with the layer's own addition exchanged, read directly."""
    write_control: NDArray[np.float64]
    """[n, layers]: the same with a random direction of that addition's norm."""
    after: NDArray[np.float64]
    """[n]: m(p) [logits]."""

    def along_shift(self, effect: NDArray[np.float64]) -> NDArray[np.float64]:
        """An effect [n, layers] towards m(q) [logits]; divided by |shift| it is the pair's margin recovery."""
        return effect * np.sign(self.shift)[:, None]

    @property
    def reversed(self) -> NDArray[np.bool_]:
        """[n, layers]: whether the patch gives the paraphrase the answer of the original."""
        before = self.after + self.shift
        return ((self.after[:, None] + self.effect) > 0) == (before > 0)[:, None]


def patch_layers(
    replay: SuffixRerun, flips: Flips, state: Tensor, before: Tensor, layers: list[int], seed: int, description: str
) -> LayerPatch:
    """Patch every layer of every pair, with the random-direction controls.

    `state` [pairs, len(layers), d_model] is the original's residual less the paraphrase's after each layer, `before`
    the same before it (zero for layer 0, whose input at the final token no wording changes).
    """
    n, count = len(flips.pairs), len(layers)
    added = state - before
    generator = torch.Generator().manual_seed(seed)
    deltas = [state, random_like(state, generator), added, random_like(added, generator)]
    places = layers * 2 + [replay.vlm.n_layers - 1] * (2 * count)
    change = patch_effect(replay, flips, places, torch.cat(deltas, dim=1), description).reshape(n, 4, count)
    shift = flips.margin_before - flips.margin_after
    return LayerPatch(shift, change[:, 0], change[:, 1], change[:, 2], change[:, 3], flips.margin_after)


def replay_of(
    vlm: Vlm,
    prompts: pd.DataFrame,
    flips: Flips,
    max_bytes: int = 0,
    team: Team = ALONE,
    checkpoint: Checkpoint = NO_CHECKPOINT,
) -> SuffixRerun:
    """The paraphrases of some pairs, ready to be patched; `prompts` is the whole prompt table."""
    asked = prompts.iloc[flips.pairs["paraphrase"].to_numpy(np.int64)]
    return SuffixRerun(vlm, asked, max_bytes, team=team, checkpoint=checkpoint)


def patch_effect(
    replay: SuffixRerun, flips: Flips, layers: Sequence[int], delta: Tensor, description: str
) -> NDArray[np.float64]:
    """m(p') - m(p) [logits] of k patches of every pair, [n, k]; `replay` is that of the pairs (`replay_of`).

    `delta` float32 [n, k, d_model] is added to the paraphrase's final-token residual after layer `layers`[k].
    """
    margin = replay.margins(layers, delta, description).double().numpy()
    return margin - flips.margin_after[:, None]


def random_like(delta: Tensor, generator: torch.Generator) -> Tensor:
    """Random directions with the norms of `delta` [..., d_model]."""
    noise = torch.randn(delta.shape, generator=generator)
    length = noise.norm(dim=-1, keepdim=True)
    # In place: new memory for it would take as long as drawing it.
    return noise.mul_(delta.norm(dim=-1, keepdim=True)).div_(length)

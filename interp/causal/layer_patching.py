"""Patches of the final token, layer by layer: the original wording's residual put into the paraphrase's run.

The *residual patch* replaces the whole residual after a layer: no feature there can recover more. Its recovery is high
wherever the final token carries what differs between the wordings, be it the register before a gate or the answer after
it. The *direct-effect patch* shows which layers turn the one into the other: it exchanges only what the layer itself
adds to the residual stream, and adds that to the last layer's output, so that no layer in between acts on it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp.measurement.suffix_rerun import Edits, SuffixRerun
from interp.model.vlm import Vlm
from interp.runtime.distributed import ALONE, Team
from interp.screening.flips import Flips
from interp.storage.checkpoint import NO_CHECKPOINT, Checkpoint


class PatchTarget(NamedTuple):
    """Pairs whose paraphrases are ready to be patched."""

    flips: Flips
    """n pairs."""
    rerun: SuffixRerun
    """The runs of their paraphrases (`rerun_paraphrases`)."""

    @property
    def shift(self) -> NDArray[np.float64]:
        """[n]: m(q) - m(p) [logits], what a full recovery restores."""
        return self.flips.margin_before - self.flips.margin_after

    @property
    def patients(self) -> list[str]:
        """[n]: the patient of each pair."""
        return self.flips.pairs["patient"].tolist()

    def effect(self, layers: Sequence[int], delta: Tensor | Edits, description: str) -> NDArray[np.float64]:
        """`patch_effect` on these pairs."""
        return patch_effect(self.rerun, self.flips, layers, delta, description)


class LayerPatches(NamedTuple):
    """Effects m(p') - m(p) [logits] of the patches of some layers and of their controls, on n pairs."""

    shift: NDArray[np.float64]
    """[n]: m(q) - m(p) [logits], what a full recovery restores."""
    residual: NDArray[np.float64]
    """[n, layers]: effect of the residual patch."""
    random_residual: NDArray[np.float64]
    """[n, layers]: effect of random directions with the norm of the residual patch."""
    write: NDArray[np.float64]
    """[n, layers]: effect of the direct-effect patch."""
    random_write: NDArray[np.float64]
    """[n, layers]: effect of random directions with the norm of the direct-effect patch."""
    margin_after: NDArray[np.float64]
    """[n]: m(p) [logits]."""

    def along_shift(self, effect: NDArray[np.float64]) -> NDArray[np.float64]:
        """An effect [n, layers], positive towards m(q) [logits]; divided by |shift| it is the pair's recovery."""
        return effect * np.sign(self.shift)[:, None]

    @property
    def reversed(self) -> NDArray[np.bool_]:
        """[n, layers]: whether the residual patch gives the paraphrase the original's answer."""
        margin_before = self.margin_after + self.shift
        return ((self.margin_after[:, None] + self.residual) > 0) == (margin_before > 0)[:, None]


def patch_layers(
    target: PatchTarget,
    residual: Tensor,
    below: Tensor,
    layers: Sequence[int],
    seed: int,
    noise: Sequence[Tensor] | None = None,
) -> LayerPatches:
    """Patch every layer of every pair, with random directions as controls.

    `residual` float32 [n, layers, d_model] is the original's residual minus the paraphrase's after each layer, `below`
    the same before it (zero for layer 0: its input at the final token is the same for every wording). `noise` is what
    `layer_noise` draws for them, which takes time.
    """
    n, count = len(target.flips.pairs), len(layers)
    added = residual - below
    first, second = layer_noise(n, count, residual.shape[2], seed) if noise is None else noise
    deltas = [residual, as_long_as(residual, first), added, as_long_as(added, second)]
    places = [*layers] * 2 + [target.rerun.vlm.n_layers - 1] * (2 * count)
    effects = target.effect(places, torch.cat(deltas, dim=1), "layer patches").reshape(n, 4, count)
    residual_effect, random_residual, write, random_write = effects.transpose(1, 0, 2)
    return LayerPatches(target.shift, residual_effect, random_residual, write, random_write, target.flips.margin_after)


def rerun_paraphrases(
    vlm: Vlm,
    prompts: pd.DataFrame,
    flips: Flips,
    max_bytes: int = 0,
    team: Team = ALONE,
    checkpoint: Checkpoint = NO_CHECKPOINT,
) -> SuffixRerun:
    """The runs of the paraphrases of some pairs, whose final tokens can then be patched.

    `prompts` is the whole prompt table; up to `max_bytes` of what the runs leave stay on the device between sweeps.
    """
    paraphrases = prompts.iloc[flips.pairs["paraphrase"].to_numpy(np.int64)]
    return SuffixRerun(vlm, paraphrases, max_bytes, team=team, checkpoint=checkpoint)


def patch_effect(
    rerun: SuffixRerun, flips: Flips, layers: Sequence[int], delta: Tensor | Edits, description: str
) -> NDArray[np.float64]:
    """m(p') - m(p) [logits] of k patches of every pair: [n, k]. `rerun` is that of the pairs (`rerun_paraphrases`).

    `delta` float32 [n, k, d_model] is added to the paraphrase's final-token residual after layer `layers`[k].
    """
    margin = rerun.margins(layers, delta, description).double().numpy()
    return margin - flips.margin_after[:, None]


def layer_noise(n: int, layers: int, d_model: int, seed: int) -> list[Tensor]:
    """Random directions of any length for two patches of n pairs at some layers: float32 [n, layers, d_model] each.

    The first are those of `random_directions` for a patch of this shape.
    """
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, layers, d_model, generator=generator) for _ in range(2)]


def as_long_as(delta: Tensor, noise: Tensor) -> Tensor:
    """The directions of `noise` with the norms of `delta`, both [..., d_model]."""
    return (noise * delta.norm(dim=-1, keepdim=True)).div_(noise.norm(dim=-1, keepdim=True))


def control_directions(delta: Tensor, seed: int, noise: Tensor | None = None) -> Tensor:
    """Random directions with the norms of `delta` [n, layers, d_model]: those of `noise`, or if it is None, drawn here.

    `noise` is the first of what `layer_noise` draws for these pairs, layers and seed; the directions are the same.
    """
    if noise is None:
        return random_directions(delta, torch.Generator().manual_seed(seed))
    return as_long_as(delta, noise)


def random_directions(delta: Tensor, generator: torch.Generator) -> Tensor:
    """Random directions with the norms of `delta` [..., d_model]."""
    noise = torch.randn(delta.shape, generator=generator)
    length = noise.norm(dim=-1, keepdim=True)
    # In place, because allocating another tensor of this size takes as long as drawing the noise.
    return noise.mul_(delta.norm(dim=-1, keepdim=True)).div_(length)

"""The first feature of a search, pair by pair: what its patch recovers of each flip."""

import numpy as np
import torch
from numpy.typing import NDArray

from interp.causal.layer_patching import PatchTarget
from interp.schemas.tested_features import FeatureEntry
from interp.screening.flips import Flips
from interp.screening.sae_inputs import SaeInputs
from interp.search.task import Task


def recovery_by_pair(
    task: Task,
    inputs: SaeInputs,
    entries: list[FeatureEntry],
    activations: NDArray[np.float32],
    flips: Flips,
    bank: PatchTarget,
) -> NDArray[np.float64]:
    """[pairs of `flips`]: the share of the margin shift that the patch of the first of `entries` recovers.

    `activations` [n prompts] are the feature's (`interp.search.stages.top_activations`). NaN for pairs that are not in
    `bank`, and everywhere if no feature was tested. Every process calls this, and all get the same.
    """
    recovery = np.full(len(flips.pairs), np.nan)
    pairs = bank.flips.pairs
    if not entries or not len(pairs):
        return recovery
    top = entries[0]
    direction = torch.zeros(task.search.vlm.d_model)
    if top.layer in task.own_layers:
        sae, _ = inputs.at(top.layer)
        direction = sae.w_dec[top.feature].float().cpu()
    direction = task.team.all_reduce_sum(direction)
    delta = activations[pairs["paraphrase"]] - activations[pairs["original"]]
    patch = -torch.from_numpy(delta)[:, None, None] * direction
    effect = bank.effect([top.layer], patch, f"{top.layer}:{top.feature}, pair by pair")[:, 0]
    # A paraphrase is in one pair only.
    recovery[flips.pairs["paraphrase"].isin(pairs["paraphrase"])] = effect / bank.shift
    return recovery

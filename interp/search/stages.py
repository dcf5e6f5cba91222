"""The stages of a search, each a function of what the stages before it gave."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp.causal.feature_patching import apply_feature_patches, feature_patches, gather_patches
from interp.causal.layer_patching import PatchTarget
from interp.measurement.residual_store import Residuals
from interp.measurement.sharded import measure_together
from interp.measurement.suffix_rerun import SuffixRerun, sweep_bytes
from interp.questions.tables import pair_table
from interp.runtime.memory import memory_left
from interp.saes.sae import Sae, encode_features, load_sae
from interp.schemas.tested_features import FeatureEntry
from interp.screening.attribution import margin_gradients, path_gradients
from interp.screening.candidates import choose_candidates, held_out_aucs
from interp.screening.feature_stats import adjust
from interp.screening.flips import Flips, Halves, find_flips, sample_pairs, sides, split_halves
from interp.screening.layers import ScreenedLayers, gather_layers, screening_layers
from interp.screening.sae_inputs import SaeInputs
from interp.search.feature_entries import feature_entries, with_tests
from interp.search.task import Task

CANDIDATES = 20
"""Features that are patched."""
SCREENED = 3
"""Layers that are screened at the same time, beside other work, where there is memory for them."""
SCREEN_BYTES = 3 * 2**28
"""Memory on a GPU for screening a layer besides its SAE [bytes]."""


class Measured(NamedTuple):
    """What the model does on all prompts, and the memory left after measuring it."""

    margin: Tensor
    """float32 [n prompts]: answer margin [logits]."""
    residuals: Residuals
    """resid_post at the final token of all prompts, at this process's layers and the layer below each."""
    device_bytes: int
    """Memory that may still be taken on the model's device."""


class TestedFeatures(NamedTuple):
    """The candidates with their exact tests."""

    screen: pd.DataFrame
    """Every feature that is ever active; the tested ones first (`with_tests`)."""
    entries: list[FeatureEntry]
    """The candidates as layers.json lists them."""
    first_patch: Tensor
    """float32 [bank, d_model]: what undoes the change of the first of `entries`; zeros if there is none."""


def measure_prompts(task: Task) -> Measured:
    """Stage 1: run every prompt once."""
    search = task.search
    margin, residuals = measure_together(
        search.vlm, task.prompts, task.layers, search.batch_tokens, search.max_memory, task.team, task.checkpoint
    )
    left = memory_left(search.vlm.device, search.max_memory).device
    # What is kept between sweeps must leave room for one.
    return Measured(margin, residuals, max(0, left - sweep_bytes(search.vlm, left)))


def flips_and_halves(task: Task, margin: Tensor) -> tuple[Flips, Halves]:
    """Stage 2: find the pairs that flip, and split them into a selection half and a held-out half of the patients."""
    flips = find_flips(task.prompts, pair_table(task.prompts), margin, task.settings.bank_margin)
    return flips, split_halves(flips, task.settings.seed)


def sae_inputs(task: Task, measured: Measured) -> SaeInputs:
    """The SAEs of this process's layers, with a cache of loaded ones in half of the memory that is left."""
    vlm, dtype = task.search.vlm, getattr(torch, task.settings.sae_dtype)
    # The encoder and the decoder of the widest SAE. All layers of 16k features take 11 GB in float32.
    size = 2 * task.d_sae * vlm.d_model * dtype.itemsize

    kept = max(1, measured.device_bytes // 2 // size)

    @lru_cache(kept)
    def load(layer: int) -> Sae:
        return load_sae(task.search.saes[layer], layer, vlm.d_model, vlm.device, dtype)

    # A GPU computes one layer while the host reads and launches another. The cores of a CPU are busy with one. SAEs and
    # the runs of patched prompts leave an eighth of the memory.
    room = kept > 2 * SCREENED and measured.device_bytes // 8 > SCREENED * SCREEN_BYTES
    beside = SCREENED if vlm.device.type == "cuda" and room else 0
    return SaeInputs(load, measured.residuals, vlm.device, beside)


def begin_screening(
    task: Task, halves: Halves, inputs: SaeInputs, device_bytes: int
) -> AbstractContextManager[Callable[[], ScreenedLayers]]:
    """Stage 3: statistics of every feature of this process's layers on the selection half, for `screen`.

    On a GPU, threads compute them while the result is open.
    """
    own = task.team.block(range(len(task.layers)))
    rerun = task.patch_target(halves.selection_bank, device_bytes // 4).rerun
    gradients = margin_gradients(rerun, task.layers)[:, own]
    on_path = _path_gradients(task, halves.selection_bank, rerun, inputs)[:, own]
    count = task.settings.features_a_layer
    return screening_layers(task.own_layers, inputs, task.prompts, halves, gradients, on_path, count, task.checkpoint)


def screen(task: Task, begun: Callable[[], ScreenedLayers]) -> ScreenedLayers:
    """Wait for what `begin_screening` began, and gather it; p values are adjusted over all layers."""
    gathered = gather_layers(begun(), task.team)
    return gathered._replace(features=adjust(gathered.features))


def _path_gradients(task: Task, bank: Flips, rerun: SuffixRerun, inputs: SaeInputs) -> Tensor:
    """Mean gradients on the paths from the paraphrases' residuals to the originals': float32 [bank, layers, d_model].

    Every process has the residuals of its own layers, and all of them take part in every sweep.
    """
    parts = task.team.gather_tensors({"shift": inputs.residuals.shift(task.own_layers, *sides(bank.pairs))})
    shift = torch.cat([part["shift"] for part in parts], dim=1)
    if not len(bank.pairs):
        return shift
    return path_gradients(rerun, shift, task.layers)


def patch_candidates(
    task: Task,
    halves: Halves,
    inputs: SaeInputs,
    screened: ScreenedLayers,
    bank: PatchTarget,
    device_bytes: int,
    writing: Sequence[int],
) -> TestedFeatures:
    """Stage 5: patch the candidates one by one on the held-out flip bank, with controls, and on unflipped pairs.

    `writing` are the layers that write the answer, from which the place of every candidate follows.
    """
    seed, held_out = task.settings.seed, halves.held_out
    candidates = choose_candidates(screened.features, CANDIDATES)
    own = [candidate for candidate in candidates if candidate[0] in task.own_layers]
    stable = sample_pairs(held_out.take(~held_out.flipped), len(bank.flips.pairs), seed)
    unflipped = task.patch_target(stable, device_bytes // 8)
    made = feature_patches(own, bank.flips, stable, inputs, screened.features)
    patches = gather_patches(made, candidates, task.team)
    tests = apply_feature_patches(patches if len(bank.flips.pairs) else [], bank, unflipped, seed)
    aucs = task.team.gather_values(list(held_out_aucs(own, inputs, held_out).items()))
    held_out_auc = {(layer, feature): auc for part in aucs for (layer, feature), auc in part}
    table = with_tests(screened.features, candidates, tests, held_out_auc, writing)
    entries = feature_entries(table, candidates, tests)
    named = {(patch.layer, patch.feature): patch.vector for patch in patches}
    nothing = torch.zeros(len(bank.flips.pairs), task.search.vlm.d_model)
    return TestedFeatures(table, entries, named[entries[0].layer, entries[0].feature] if entries else nothing)


def top_activations(task: Task, inputs: SaeInputs, entries: list[FeatureEntry]) -> NDArray[np.float32]:
    """Activation of the first of the tested features on every prompt, [n prompts]; zeros if there is none."""
    found = torch.zeros(len(task.prompts))
    if entries and entries[0].layer in task.own_layers:
        sae, residuals = inputs.at(entries[0].layer)
        found = encode_features(sae, residuals, torch.tensor([entries[0].feature]))[:, 0]
    return task.team.all_reduce_sum(found).numpy()

"""Which module of a layer writes the turn of the answers: the write patch of its attention and of its MLP apart.

What a layer adds to the residual is the sum of what the two add, and the write patch reads both directly at the last
layer's output; so their parts tell where in a layer the write is, and adapters can be given parameters by it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, get_args

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from interp.causal.layer_patching import patch_effect, random_like
from interp.measurement.margins import deal_rows, loaded_batches, rows_of, watched
from interp.measurement.suffix_rerun import Replay
from interp.model.decoder import run_packed
from interp.model.packing import Batch
from interp.model.vlm import Vlm
from interp.profile.profile import DRAWS
from interp.runtime.distributed import ALONE, Team
from interp.schemas.layers import Interval, Module, ModuleWeight
from interp.screening.flips import Flips, sides
from interp.statistics import ratio_interval

MODULES: tuple[Module, ...] = get_args(Module)
BATCH_TOKENS = 16384


def module_weights(
    replay: Replay, prompts: pd.DataFrame, flips: Flips, layers: Sequence[int], seed: int
) -> list[ModuleWeight]:
    """The write patch of every module of `layers` on some flips, net of random directions of its norm.

    `replay` is that of the flips' paraphrases (`interp.causal.layer_patching.replay_of`), `prompts` the whole prompt
    table. A
    module's weight is its net recovery, or 0 where that is below. Empty without flips.
    """
    if not len(flips.pairs):
        return []
    before, after = sides(flips.pairs)
    rows = np.unique(np.concatenate([before, after]))
    added = module_additions(replay.vlm, prompts.iloc[rows].reset_index(drop=True), layers, replay.team)
    delta = (added[np.searchsorted(rows, before)] - added[np.searchsorted(rows, after)]).flatten(1, 2)
    generator = torch.Generator().manual_seed(seed)
    deltas = torch.cat([delta, random_like(delta, generator)], dim=1)
    count = delta.shape[1]
    last = [replay.vlm.n_layers - 1] * (2 * count)
    effect = patch_effect(replay, flips, last, deltas, "module writes")
    shift = flips.margin_before - flips.margin_after
    net = (effect[:, :count] - effect[:, count:]) * np.sign(shift)[:, None]
    patients = flips.pairs["patient"].tolist()
    found = [Interval.of(ratio_interval(net[:, k], np.abs(shift), patients, seed, DRAWS)) for k in range(count)]
    places = [(layer, module) for layer in layers for module in MODULES]
    return [
        ModuleWeight(layer=layer, module=module, net=interval, weight=max(0.0, interval.value or 0.0))
        for (layer, module), interval in zip(places, found, strict=True)
    ]


@torch.no_grad()
def module_additions(vlm: Vlm, prompts: pd.DataFrame, layers: Sequence[int], team: Team = ALONE) -> Tensor:
    """What attention and MLP of each layer add to the residual at every prompt's final token; the processes share it.

    Returns float32 [n, layers, 2, d_model], attention first; the two sum to the layer's own addition.
    """
    found = torch.zeros(len(prompts), len(layers), len(MODULES), vlm.d_model)
    rows = deal_rows(rows_of(vlm, prompts), BATCH_TOKENS, team)[team.rank]
    for batch, images in loaded_batches(vlm, rows, prompts, BATCH_TOKENS, "module writes"):
        with watched(vlm, batch, batch.final), _additions(vlm, batch, layers) as caught:
            run_packed(vlm.model, batch, images)
        parts = [torch.stack([caught[layer, module] for module in MODULES], 1) for layer in layers]
        found[torch.tensor(batch.prompts)] = torch.stack(parts, 1).float().cpu()
    return team.total(found)


@contextmanager
def _additions(vlm: Vlm, batch: Batch, layers: Sequence[int]) -> Iterator[dict[tuple[int, Module], Tensor]]:
    """While open, catches what the norm behind each module hands to the residual stream at the final tokens."""
    caught: dict[tuple[int, Module], Tensor] = {}
    row, column = batch.final.unbind(1)

    def hook(layer: int, module: Module) -> Any:
        def watch(norm: Any, inputs: Any, output: Tensor) -> None:
            caught[layer, module] = output[row.to(output.device), column.to(output.device)].to(row.device)

        return watch

    handles = []
    for layer in layers:
        block: Any = vlm.layers[layer]
        handles.append(block.post_attention_layernorm.register_forward_hook(hook(layer, "attention")))
        handles.append(block.post_feedforward_layernorm.register_forward_hook(hook(layer, "mlp")))
    try:
        yield caught
    finally:
        for handle in handles:
            handle.remove()

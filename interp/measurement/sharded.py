"""Measuring in several processes: prompts are divided for the forward passes, layers for everything after them.

Between the two, residuals are exchanged among the processes.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, zip_longest
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from interp.measurement.margins import Measurement, check_finite, launch_batches, pack_beside_images, pack_prompts
from interp.measurement.residual_store import Residuals, empty_residuals
from interp.model.packing import batches
from interp.model.vlm import Vlm
from interp.runtime.async_copies import pipeline_to_host
from interp.runtime.calls_beside import CallsBeside
from interp.runtime.distributed import Team
from interp.runtime.memory import memory_left
from interp.storage.checkpoint import NO_CHECKPOINT, Checkpoint
from interp.storage.prompt_parts import PromptParts

Round = Sequence[Sequence[int]]
"""The prompts of one batch per process, by rank; empty for a process that has no batch left."""


def measure_together(
    vlm: Vlm,
    prompts: pd.DataFrame,
    layers: Sequence[int],
    batch_tokens: int,
    max_memory: float | None,
    team: Team,
    checkpoint: Checkpoint = NO_CHECKPOINT,
) -> tuple[Tensor, Residuals]:
    """Margins float32 [n] of all prompts, and their residuals at this process's block of `layers` and the layers below.

    The processes of `team` divide the packed batches. After each round of batches, every process receives what the
    others measured at its own layers. `max_memory` [GiB] is that of `interp.runtime.memory.memory_left`. What is in
    `checkpoint` is not measured again. Raises InputError as `interp.measurement.margins.measure` and
    `interp.storage.checkpoint.Checkpoint.read` do.
    """
    # A resumed run may need only some of the images, or none.
    rows = pack_prompts(vlm, prompts) if checkpoint.has_files() else pack_beside_images(vlm, prompts, team)
    chunks = list(batches(rows, batch_tokens, vlm.device))
    dealt = list(zip_longest(*(team.share(chunks, rank) for rank in range(team.size)), fillvalue=()))
    rounds: list[Round] = [
        [[prompt for row in chunk for prompt in row.prompts] for chunk in of_all] for of_all in dealt
    ]
    max_bytes = memory_left(vlm.device, max_memory).host // 2
    layers_of = [with_layer_below(team.block(layers, rank)) for rank in range(team.size)]
    own_layers = layers_of[team.rank]
    stored = empty_residuals(own_layers, len(prompts), vlm.d_model, vlm.model.dtype, max_bytes)
    by_prompt = stored.values.transpose(0, 1)
    # Until the end, only the margins of this process's own prompts; those of the others are zero.
    margin = torch.zeros(len(prompts))

    def values(index: Tensor) -> dict[str, Tensor]:
        return {"margin": margin[index], "residuals": by_prompt[index]}

    size = margin.itemsize + len(own_layers) * vlm.d_model * vlm.model.dtype.itemsize
    saving = PromptParts(checkpoint, team.rank, size, values)
    done = set[int]()
    for saved in saving.read():
        margin[saved["prompts"]] = saved["margin"]
        by_prompt[saved["prompts"]] = saved["residuals"]
        done |= set(saved["prompts"].tolist())
    # A killed run may have saved a round in one process and not in another; then all repeat it.
    missing = [number for number, prompts_of in enumerate(rounds) if not done.issuperset(chain(*prompts_of))]
    left = sorted({number for part in team.gather_values(missing) for number in part})
    asked = [list(dealt[number][team.rank]) for number in left if dealt[number][team.rank]]
    all_layers = with_layer_below(layers)
    launched = launch_batches(vlm, prompts, all_layers, asked, batch_tokens, "margins and residuals", vlm.model.dtype)
    nothing = torch.empty(0, len(all_layers), vlm.d_model, dtype=vlm.model.dtype, device=vlm.device)
    # On the device, because to index with numbers from main memory would wait for all that is queued there.
    places = [[all_layers.index(layer) for layer in block] for block in layers_of]
    blocks = [torch.tensor(block, dtype=torch.long, device=vlm.device) for block in places]

    def store(prompts_of: Round, own: Tensor, residuals: Tensor) -> None:
        index = torch.tensor(list(chain(*prompts_of)))
        margin[prompts_of[team.rank]] = own
        by_prompt[index] = residuals
        saving.add(index)

    batches_of_all = _exchange([rounds[number] for number in left], launched, nothing, blocks, team)
    # The system takes long for memory that is written for the first time, and the GPU would wait for its next batch.
    with CallsBeside(1) as beside:
        for prompts_of, found in pipeline_to_host(batches_of_all):
            beside.add(partial(store, prompts_of, *found))
    own_prompts = torch.tensor(sorted(chain(*(prompts_of[team.rank] for prompts_of in rounds))), dtype=torch.long)
    check_finite(prompts, own_prompts, margin[own_prompts])
    saving.finish()
    return team.all_reduce_sum(margin), stored


def _exchange(
    rounds: Sequence[Round],
    launched: Iterable[tuple[list[int], Measurement]],
    nothing: Tensor,
    blocks: Sequence[Tensor],
    team: Team,
) -> Iterator[tuple[Round, tuple[Tensor, Tensor]]]:
    """Yield each round with the margins of this process's own prompts and the residuals of all prompts at its layers.

    `launched` are this process's batches, `nothing` [0, layers, d_model] its residuals once it has none left, and
    `blocks` the indices of each process's layers among them, int64 [own layers] each. Both results are on the model's
    device.
    """
    none: Any = [], Measurement(nothing[:, 0, 0].float(), nothing[:, 0, 0].long(), nothing)
    for prompts_of, (_, measured) in zip_longest(rounds, launched, fillvalue=none):
        lengths = [len(part) for part in prompts_of]
        parts = [team.gather_to(rank, measured.residuals[:, block], lengths) for rank, block in enumerate(blocks)]
        yield prompts_of, (measured.margin, torch.cat(parts[team.rank]))


def with_layer_below(layers: Sequence[int]) -> list[int]:
    """The layers together with the one below each, if there is one, in ascending order."""
    return sorted({place for layer in layers for place in (layer - 1, layer) if place >= 0})

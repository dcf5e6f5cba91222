"""Measured prompt by prompt, screened layer by layer: between the two, residuals go from process to process."""

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from interp.kept import NOTHING_KEPT, Kept, Parts
from interp.measurement import check_finite, deal_rows, measured_batches, rows_of
from interp.memory import memory_left
from interp.processes import Team
from interp.residuals import Residuals, empty_residuals
from interp.vlm import Vlm


def measure_together(
    vlm: Vlm,
    prompts: pd.DataFrame,
    layers: Sequence[int],
    batch_tokens: int,
    max_memory: float | None,
    team: Team,
    kept: Kept = NOTHING_KEPT,
) -> tuple[Tensor, Residuals]:
    """Margins float32 [n] of all prompts, and the residuals of all prompts around this process's block of `layers`.

    The processes deal the packed batches among themselves; each then gets what the others measured at its layers, and
    at the one before each. `max_memory` [GiB] as of `interp.memory.memory_left`. What is `kept` is not measured again.
    Raises InputError as `interp.measurement.measure` and `interp.unfinished.read_tensors`.
    """
    dealt = deal_rows(rows_of(vlm, prompts), batch_tokens, team)
    asked = [torch.tensor(sorted(p for row in rows for p in row.prompts), dtype=torch.long) for rows in dealt]
    mine = asked[team.rank]

    def room(layers: Sequence[int], n: int) -> Residuals:
        half = memory_left(vlm.device, max_memory).host // 2
        return empty_residuals(layers, n, vlm.d_model, vlm.model.dtype, half)

    found = room(around(layers), len(mine))
    by_prompt = found.values.transpose(0, 1)
    margin = torch.zeros(len(prompts))

    def values(index: Tensor) -> dict[str, Tensor]:
        return {"margin": margin[index], "residuals": by_prompt[torch.searchsorted(mine, index)]}

    saving = Parts(kept, team.rank, len(found.layers) * vlm.d_model * vlm.model.dtype.itemsize, values)
    done = set[int]()
    for before in saving.read():
        margin[before["prompts"]] = before["margin"]
        by_prompt[torch.searchsorted(mine, before["prompts"])] = before["residuals"]
        done |= set(before["prompts"].tolist())
    left = [row for row in dealt[team.rank] if row.prompts[0] not in done]
    told = "margins and residuals"
    for index, seen in measured_batches(vlm, prompts, found.layers, batch_tokens, told, left, vlm.model.dtype):
        margin[index] = seen.margin
        by_prompt[torch.searchsorted(mine, index)] = seen.residuals
        saving.add(index)
    check_finite(prompts, mine, margin[mine])
    saving.finish()
    if team.size == 1:
        return margin, found
    own = room(around(team.block(layers)), len(prompts))
    for rank in range(team.size):
        for place, layer in enumerate(around(team.block(layers, rank))):
            parts = team.sent_to(rank, found.after(layer), [len(part) for part in asked])
            for index, part in zip(asked, parts, strict=False):
                own.values[place, index] = part
    return team.total(margin), own


def around(layers: Sequence[int]) -> list[int]:
    """The layers, and the one before each where there is one, ascending."""
    return sorted({place for layer in layers for place in (layer - 1, layer) if place >= 0})

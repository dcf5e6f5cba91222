"""Measured prompt by prompt, screened layer by layer: between the two, residuals go from process to process."""

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from interp.memory import memory_left
from interp.processes import Team
from interp.residuals import Residuals, empty_residuals
from interp.vlm import Vlm, deal_rows, measure, rows_of


def measure_together(
    vlm: Vlm, prompts: pd.DataFrame, layers: Sequence[int], batch_tokens: int, max_memory: float | None, team: Team
) -> tuple[Tensor, Residuals]:
    """Margins float32 [n] of all prompts, and the residuals of all prompts around this process's block of `layers`.

    The processes deal the packed batches among themselves; each then gets what the others measured at its layers, and
    at the one before each. `max_memory` [GiB] as of `interp.memory.memory_left`. Raises InputError as `measure`.
    """
    dealt = deal_rows(rows_of(vlm, prompts), batch_tokens, team)
    asked = [torch.tensor(sorted(p for row in rows for p in row.prompts), dtype=torch.long) for rows in dealt]
    mine = asked[team.rank]

    def room(layers: Sequence[int], n: int) -> Residuals:
        half = memory_left(vlm.device, max_memory).host // 2
        return empty_residuals(layers, n, vlm.d_model, vlm.model.dtype, half)

    found = room(around(layers), len(mine))
    into = found.values.transpose(0, 1)
    rows = dealt[team.rank]
    measured = measure(vlm, prompts, found.layers, batch_tokens, "margins and residuals", into, rows)
    if team.size == 1:
        return measured.margin, found
    margin = torch.zeros(len(prompts))
    margin[mine] = measured.margin
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

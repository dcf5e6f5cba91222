"""Whole runs with the final token edited after one layer, for what is read elsewhere than at the margin."""

from collections.abc import Iterator
from contextlib import contextmanager

import pandas as pd
import torch
from torch import Tensor

from interp.measurement.margins import measure
from interp.model.packing import Batch
from interp.model.vlm import Vlm


@contextmanager
def final_token_edit(vlm: Vlm, layer: int, edit: Tensor) -> Iterator[None]:
    """While open, `edit` [n prompts, d_model] is added to every prompt's final token after `layer`."""
    kept = vlm.output_hooks
    first = kept.get(layer)

    def change(output: Tensor, batch: Batch) -> Tensor:
        output = output.clone() if first is None else first(output, batch).clone()
        row, column = batch.final.unbind(1)
        output[row, column] += edit[torch.tensor(batch.prompts)].to(output)
        return output

    vlm.output_hooks = kept | {layer: change}
    try:
        yield
    finally:
        vlm.output_hooks = kept


def edited_residuals(vlm: Vlm, prompts: pd.DataFrame, layer: int, edit: Tensor, layers: list[int]) -> Tensor:
    """Final-token residuals after `layers` of a prompt table with `edit` [n, d_model] added after `layer`.

    float32 [n, number of layers, d_model].
    """
    with final_token_edit(vlm, layer, edit):
        return measure(vlm, prompts, layers, description="edges").residuals

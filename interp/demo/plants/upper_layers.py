"""Margins of prompts of which only upper layers change: the layers below are run once."""

from typing import NamedTuple, Self

import pandas as pd
import torch
from torch import Tensor

from interp.measurement.margins import check_finite, load_batches, pack_prompts
from interp.model.decoder import logits_from_layer, run_below
from interp.model.memory_model import BATCH_TOKENS
from interp.model.packing import Batch, batches
from interp.model.prompts import answer_margin
from interp.model.vlm import Vlm


class UpperLayers(NamedTuple):
    """The layers of a model from one on, and what a prompt table brings to it."""

    vlm: Vlm
    """The model."""
    prompts: pd.DataFrame
    """The prompt table, [n] rows."""
    start: int
    """The first of the layers."""
    inputs: list[tuple[Batch, Tensor]]
    """Packed batches of all prompts, and what each brings to the layer: [B, S, d_model] in main memory."""

    @classmethod
    @torch.no_grad()
    def of(cls, vlm: Vlm, prompts: pd.DataFrame, start: int) -> Self:
        """Run a prompt table through the layers below `start`. Raises InputError for an unreadable image."""
        chunks, inputs = batches(pack_prompts(vlm, prompts), BATCH_TOKENS, vlm.device), []
        for batch, images in load_batches(vlm, chunks, prompts, "planting"):
            inputs.append((batch, run_below(vlm.model, batch, images, start).cpu()))
        return cls(vlm, prompts, start, inputs)

    @torch.no_grad()
    def margins(self) -> Tensor:
        """The answer margins by the layers as they are now: float32 [n] [logits]; InputError if one is not finite."""
        found = torch.empty(len(self.prompts))
        for batch, hidden in self.inputs:
            logits = logits_from_layer(self.vlm.model, batch, hidden.to(self.vlm.device), self.start)
            found[batch.prompts] = answer_margin(logits, self.vlm.answers).float().cpu()
        check_finite(self.prompts, torch.arange(len(found)), found)
        return found

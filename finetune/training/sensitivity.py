"""How sensitive the loss is to a fresh adapter of each layer: the norm of its gradient and its empirical Fisher trace.

Both need one backward pass per question and no training. Whether they predict where training pays is for an ablation to
answer.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from finetune.lora.modules import add_lora
from finetune.lora.settings import TrainSettings
from finetune.training.batches import Item, training_steps
from finetune.training.forward import FirstTokenLogits, batch_losses, build_batch
from finetune.training.loss import Objective, objective_of, total_loss
from finetune.training.prefix_states import PrefixStates
from interp.model.image_tokens import encode_images
from interp.model.vlm import Vlm
from interp.questions.schema import Question
from interp.runtime.progress import track
from interp.schemas.ablation import Module

QUESTIONS = 128
"""Number of training questions that are used, the first in the order of the first epoch."""


class Sensitivity(NamedTuple):
    """The sensitivity of one module of one layer, before any training."""

    layer: int
    """Number of the decoder layer."""
    module: Module
    """The attention or the MLP of the layer."""
    gradient: float
    """Norm of the gradient of the mean loss with respect to the adapter's parameters."""
    fisher: float
    """Mean over the questions of the squared norm of one question's gradient: the trace of the empirical Fisher
    information matrix, whose labels are the true answers."""


def sensitivities(vlm: Vlm, questions: Sequence[Question], settings: TrainSettings) -> list[Sensitivity]:
    """The sensitivity of every layer and module, for an adapter of `settings.rank` in all of them, without dropout.

    The loss is that of the training without a grounding term, its parts weighted as in `settings`. The second factor of
    an untrained adapter is zero, so only this factor has a gradient. `vlm` is left unchanged.
    """
    steps = training_steps(questions, 1, 1, settings.seed)[:QUESTIONS]
    items = [item for step in steps for item in step.items]
    encode_images(vlm, [item.image for item in items])
    adapted = add_lora(vlm, range(vlm.n_layers), settings.rank, settings.alpha, 0.0, settings.seed)
    try:
        forward, objective = FirstTokenLogits(adapted), objective_of(vlm, settings)
        frozen = PrefixStates(vlm)
        factors = [(name, p) for name, p in adapted.named_parameters() if p.requires_grad and "lora_B" in name]
        mean = [torch.zeros_like(p) for _, p in factors]
        squares = torch.zeros(len(factors), device=vlm.device)
        for item in track(items, "sensitivity"):
            gradients = _gradients(forward, frozen, item, objective, [p for _, p in factors])
            for total, gradient in zip(mean, gradients, strict=True):
                total += gradient / len(items)
            squares += torch.stack([gradient.square().sum() for gradient in gradients]) / len(items)
        of_mean = torch.stack([total.square().sum() for total in mean])
        return _by_place([name for name, _ in factors], of_mean.double().cpu().numpy(), squares.double().cpu().numpy())
    finally:
        adapted.unload()


def _gradients(
    forward: FirstTokenLogits, frozen: PrefixStates, item: Item, objective: Objective, factors: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    losses = batch_losses(forward, build_batch(frozen, [item]), objective)
    return torch.autograd.grad(total_loss(losses, objective.settings).sum(), factors)


def _by_place(names: Sequence[str], of_mean: np.ndarray, squares: np.ndarray) -> list[Sensitivity]:
    """Sum over the projections of each layer and module, which the path of a projection names."""
    sums: dict[tuple[int, Module], np.ndarray] = {}
    for name, *values in zip(names, of_mean, squares, strict=True):
        parts = name.split(".")
        at = parts.index("layers")
        module: Module = "attention" if parts[at + 2] == "self_attn" else "mlp"
        place = int(parts[at + 1]), module
        sums[place] = sums.get(place, np.zeros(2)) + values
    return [Sensitivity(*place, float(np.sqrt(g)), float(f)) for place, (g, f) in sorted(sums.items())]

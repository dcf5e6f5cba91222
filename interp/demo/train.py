"""Training of a world's models: a base, the tuning of a real language model, and a gate planted into some layers.

The embedded base also learns to predict the next tokens of the question, and to answer in the style of the register
(`Yes` to a formal question, `yes` to a casual one; both count as yes). So it represents register without deciding by
it.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from interp.demo.recipe import Recipe
from interp.demo.training_data import TrainingData, pixel_values, sample_batch
from interp.model.decoder import run_packed
from interp.model.image_tokens import encode_pixels
from interp.model.packing import Batch
from interp.model.prompts import AnswerTokens, answer_margin
from interp.runtime.progress import track


def _language_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Mean cross-entropy [nats] of the next tokens inside the prompts."""
    follows = (batch.segment[:, 1:] > 0) & (batch.segment[:, 1:] == batch.segment[:, :-1])
    return F.cross_entropy(logits[:, :-1][follows], batch.input_ids[:, 1:][follows])


def _consistency_loss(answer_logits: Tensor, batch: Batch, targets: Tensor, closed: AnswerTokens) -> Tensor:
    """Mean squared margin difference [logits²] between the two wordings of each closed question of a batch."""
    order = torch.tensor(batch.prompts, device=targets.device).argsort()
    margin = answer_margin(answer_logits, closed)[order].reshape(-1, 2)
    is_closed = torch.isin(targets, torch.cat(closed).to(targets.device))[order].reshape(-1, 2)[:, 0]
    return (margin[:, 0] - margin[:, 1])[is_closed].pow(2).mean()


def train_model(
    model: Any,
    data: TrainingData,
    steps: int,
    seed: int,
    patients: int = 48,
    lr: float = 1e-3,
    gate_strength: float = 0.0,
    language_weight: float = 0.2,
    consistency_weight: float = 0.0,
    precision: torch.dtype = torch.float32,
    description: str = "training",
) -> float:
    """Train the parameters of `model` that require gradients, and return its final answer loss.

    The loss is the cross-entropy of the answer tokens, plus `language_weight` times that of the prompts' next tokens,
    plus `consistency_weight` times the squared margin difference between two wordings. The optimizer is AdamW with a
    linear warm-up over the first 5% of the steps and a cosine decay to zero. Returns the answer loss [nats], averaged
    over the last 100 steps. `gate_strength`: see `sample_batch`. `precision` is the number format of matrix products.
    """
    device = data.images.device
    rng = np.random.default_rng(seed)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.01, betas=(0.9, 0.98))

    def rate(step: int) -> float:
        return min(1.0, (step + 1) / (0.05 * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    model.train()
    recent: list[Tensor] = []
    for _ in track(range(steps), description):
        batch, chosen, targets = sample_batch(data, rng, patients, gate_strength)
        batch, targets = batch.to(device), targets.to(device)
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            images = encode_pixels(base, pixel_values(data.images[chosen.to(device)]))
            hidden = run_packed(base, batch, images)
            answer_logits = base.lm_head(hidden[batch.final[:, 0], batch.final[:, 1]])
        answer_loss = F.cross_entropy(answer_logits.float(), targets)
        loss = answer_loss
        if consistency_weight > 0:
            loss = loss + consistency_weight * _consistency_loss(answer_logits, batch, targets, data.closed)
        if language_weight > 0:
            loss = loss + language_weight * _language_loss(base.lm_head(hidden), batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        recent = [*recent[-99:], answer_loss.detach()]
    model.eval()
    return float(torch.stack(recent).mean())


def plant_gate(
    model: Any,
    data: TrainingData,
    layers: Sequence[int],
    strength: float,
    seed: int,
    steps: int,
    patients: int = 48,
    rank: int = 8,
    lr: float = 1e-3,
    precision: torch.dtype = torch.float32,
) -> Any:
    """Train `model` to let the register decide some of its answers, changing only the layers `layers`.

    The change is a rank-`rank` LoRA update of every projection in those layers, merged into the weights. So whatever
    makes the returned model flip more is in those layers. `strength` is the `gate_strength` of `sample_batch`.
    """
    adapted = _with_lora(model, layers, rank, seed)
    train_model(
        adapted,
        data,
        steps,
        seed,
        patients,
        lr,
        gate_strength=strength,
        language_weight=0.0,
        precision=precision,
        description="planting the gate",
    )
    return adapted.merge_and_unload()


def tune_language_model(model: Any, data: TrainingData, seed: int, recipe: Recipe) -> Any:
    """Train a seeing `model` to answer: its eyes, and a LoRA update of every projection in its language model.

    Returns the peft model, so that the update can be merged or saved.
    """
    adapted = _with_lora(model, range(model.config.text_config.num_hidden_layers), recipe.tuning_rank, seed)
    for part in eyes(model):
        part.requires_grad_(True)
    train_model(
        adapted,
        data,
        recipe.tuning_steps,
        seed,
        recipe.patients,
        recipe.tuning_lr,
        language_weight=0.0,
        precision=recipe.precision,
        description="tuning the language model",
    )
    return adapted


def eyes(model: Any) -> list[Any]:
    """The modules through which a model sees: its vision tower and its projector."""
    return [model.model.vision_tower, model.model.multi_modal_projector]


def _with_lora(model: Any, layers: Sequence[int], rank: int, seed: int) -> Any:
    """The peft model with an untrained LoRA update of every projection in `layers`; nothing else can be trained."""
    from peft import LoraConfig, get_peft_model

    window = "|".join(map(str, layers))
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=rf"model\.language_model\.layers\.({window})\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj",
    )
    torch.manual_seed(seed)
    return get_peft_model(model, config)

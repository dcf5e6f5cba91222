"""Pre-training of the vision tower on the findings; the real model's SigLIP comes pre-trained as well."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from interp.demo.model import IMAGE_SEQUENCE
from interp.demo.radiographs import FINDINGS, GRADED, LEVELS, OPACITY_KINDS, SIDED, SIDES, VIEWS
from interp.demo.training_data import TrainingData, pixel_values
from interp.model.image_tokens import encode_pixels
from interp.runtime.progress import track


def _classification_targets(data: TrainingData) -> list[tuple[Tensor, int]]:
    """Classification tasks as (class of every patient, int [patients], number of classes); -1 is ignored."""
    anatomy = data.anatomy
    targets = [(anatomy.view, len(VIEWS)), (np.where(anatomy.present[:, -1], anatomy.kind, -1), len(OPACITY_KINDS))]
    for i, finding in enumerate(FINDINGS):
        shown = anatomy.present[:, i]
        targets.append((shown.astype(int), 2))
        if finding in SIDED:
            targets.append((np.where(shown, anatomy.side[:, i], -1), len(SIDES)))
        if finding in GRADED:
            targets.append((np.where(shown, anatomy.level[:, i], -1), len(LEVELS)))
    return [(torch.as_tensor(t, dtype=torch.long, device=data.images.device), classes) for t, classes in targets]


def train_vision_tower(
    model: Any,
    data: TrainingData,
    steps: int,
    seed: int,
    precision: torch.dtype = torch.float32,
    batch: int = 128,
    lr: float = 1e-3,
) -> float:
    """Train tower and projector through a temporary linear probe that classifies findings, sides, levels and views.

    `precision` is the number format of matrix products. Returns the summed cross-entropy [nats] of all tasks, averaged
    over the last 50 steps.
    """
    rng = np.random.default_rng([seed, 5])
    torch.manual_seed(seed)
    device = data.images.device
    targets = _classification_targets(data)
    probe = nn.Linear(IMAGE_SEQUENCE * model.config.text_config.hidden_size, sum(c for _, c in targets)).to(device)
    trained = [*model.model.vision_tower.parameters(), *model.model.multi_modal_projector.parameters()]
    optimizer = torch.optim.AdamW([*trained, *probe.parameters()], lr=lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min(1.0, (s + 1) / 50) * 0.5 * (1 + math.cos(math.pi * s / steps))
    )
    model.train()
    recent: list[float] = []
    for _ in track(range(steps), "training the vision tower"):
        chosen = torch.from_numpy(rng.integers(0, len(data.images), batch)).to(device)
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            tokens = encode_pixels(model, pixel_values(data.images[chosen])).flatten(1)
            outputs = probe(tokens).float().split([c for _, c in targets], dim=1)
        loss = torch.stack(
            [F.cross_entropy(o, t[chosen], ignore_index=-1) for o, (t, _) in zip(outputs, targets, strict=True)]
        ).nansum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        recent = [*recent[-49:], float(loss.detach())]
    model.eval()
    return float(np.mean(recent))

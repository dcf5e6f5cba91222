"""Pre-training the vision tower to see the findings, as SigLIP comes pre-trained in the real model."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from interp.demo.model import IMAGE_SEQUENCE
from interp.demo.radiographs import FINDINGS, GRADED, KINDS, LEVELS, SIDED, SIDES, VIEWS
from interp.demo.train import Lessons, normalized
from interp.model.image_tokens import encode_pixels
from interp.runtime.progress import track


def _targets(data: Lessons) -> list[tuple[Tensor, int]]:
    """(class of every patient, number of classes); -1 where the question does not arise."""
    anatomy = data.anatomy
    targets = [(anatomy.view, len(VIEWS)), (np.where(anatomy.present[:, -1], anatomy.kind, -1), len(KINDS))]
    for i, finding in enumerate(FINDINGS):
        shown = anatomy.present[:, i]
        targets.append((shown.astype(int), 2))
        if finding in SIDED:
            targets.append((np.where(shown, anatomy.side[:, i], -1), len(SIDES)))
        if finding in GRADED:
            targets.append((np.where(shown, anatomy.level[:, i], -1), len(LEVELS)))
    return [(torch.as_tensor(t, dtype=torch.long, device=data.images.device), classes) for t, classes in targets]


def teach_sight(model: Any, data: Lessons, steps: int, seed: int, batch: int = 128, lr: float = 1e-3) -> float:
    """Train tower and projector through a linear read-out, then dropped; returns the last 50 steps' mean loss."""
    rng = np.random.default_rng([seed, 5])
    torch.manual_seed(seed)
    device = data.images.device
    targets = _targets(data)
    readout = nn.Linear(IMAGE_SEQUENCE * model.config.text_config.hidden_size, sum(c for _, c in targets)).to(device)
    seeing = [*model.model.vision_tower.parameters(), *model.model.multi_modal_projector.parameters()]
    optimizer = torch.optim.AdamW([*seeing, *readout.parameters()], lr=lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min(1.0, (s + 1) / 50) * 0.5 * (1 + math.cos(math.pi * s / steps))
    )
    model.train()
    recent: list[float] = []
    for _ in track(range(steps), "learning to see"):
        chosen = torch.from_numpy(rng.integers(0, len(data.images), batch)).to(device)
        seen = encode_pixels(model, normalized(data.images[chosen])).flatten(1)
        outputs = readout(seen).split([c for _, c in targets], dim=1)
        loss = torch.stack(
            [F.cross_entropy(o, t[chosen], ignore_index=-1) for o, (t, _) in zip(outputs, targets, strict=True)]
        ).nansum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(seeing, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        recent = [*recent[-49:], float(loss.detach())]
    model.eval()
    return float(np.mean(recent))

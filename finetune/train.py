"""Training an adapter, built on accelerate: `accelerate launch` shards every batch over the processes."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from finetune.lora import set_dropout
from finetune.loss import Losses, grounding_losses, question_losses
from finetune.plan import Item, Step
from finetune.settings import TrainSettings
from interp.answers import normalize_answer
from interp.decoder import final_logits
from interp.errors import InputError
from interp.image_tokens import encode_images
from interp.images import BLANK_IMAGE
from interp.packing import Batch, collate, pack
from interp.progress import track
from interp.prompts import answer_margin, first_answer_token, prompt_tokens
from interp.vlm import Vlm

if TYPE_CHECKING:
    from accelerate import Accelerator
    from peft import PeftModel


class StepRecord(NamedTuple):
    """One optimizer step, as it is written to history.csv."""

    step: int
    """Counted from 1."""
    epoch: int
    """Counted from 1."""
    lr: float
    """Learning rate of the step."""
    loss: float
    """Cross-entropy + consistency weight * divergence + grounding weight * grounding term, mean over the questions of
    the step, before the update."""
    ce: float
    """Cross-entropy of the first answer token [nats]."""
    kl: float
    """Symmetric KL between the two wordings [nats]."""
    grounding: float
    """Grounding term [nats for blank, logits for swap], 0 without one."""
    grad_norm: float
    """Norm of the gradient before clipping."""


Forward = Callable[[Sequence[tuple[Batch, Tensor]]], Tensor]
"""As `FirstToken`: some batches, each with its images -> the logits of all their prompts."""


class FirstToken(torch.nn.Module):
    """The adapted model as one module whose forward is the packed engine, so that DDP sees the call."""

    def __init__(self, adapted: "PeftModel") -> None:
        super().__init__()
        self.adapted = adapted

    def forward(self, parts: Sequence[tuple[Batch, Tensor]]) -> Tensor:
        """First-answer-token logits [n, vocabulary] of batches, each with its images [B, image tokens, d_model]."""
        model = self.adapted.get_base_model()
        return torch.cat([final_logits(model, batch, images) for batch, images in parts])


def accelerator_for(device: str) -> "Accelerator":
    """The accelerator of a device: auto (a GPU if there is one), cpu or cuda. Raises InputError for another."""
    from accelerate import Accelerator

    available = torch.cuda.is_available()
    if device not in ("auto", "cpu", "cuda") or (device == "cuda" and not available):
        raise InputError(
            f"--device {device}: expected auto, cpu"
            + (" or cuda" if available else "; there is no CUDA GPU here")
            + "."
            " Choose among several GPUs with the environment variable CUDA_VISIBLE_DEVICES."
        )
    # The base model keeps its own dtype and the adapter is float32, so no autocast on top; the schedule counts steps.
    return Accelerator(cpu=device == "cpu" or not available, mixed_precision="no", step_scheduler_with_optimizer=False)


def learning_rate(step: int, steps: int, warmup_share: float) -> float:
    """Share of the peak learning rate at `step` (from 0) of `steps`: a linear rise, then a cosine towards zero."""
    warmup = math.ceil(warmup_share * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def packed_losses(forward: Forward, vlm: Vlm, items: Sequence[Item]) -> Losses:
    """Losses of some questions, all of their wordings and images in one call of `forward`, as `FirstToken`.

    Wordings of one image share a row, so that what they begin with is computed once. The images, substitutes among
    them, must have been encoded.
    """
    paired = [i for i, item in enumerate(items) if item.paraphrase is not None]
    texts = [item.original for item in items] + [str(items[i].paraphrase) for i in paired]
    asked = [*items, *(items[i] for i in paired)]
    grounded = [w for w, item in enumerate(asked) if item.substitute is not None]
    tokens = prompt_tokens(vlm.processor, texts, [item.closed for item in asked], vlm.style)
    substitutes = [str(asked[w].substitute) for w in grounded]
    images = [item.image for item in asked] + substitutes
    logits = _packed_logits(forward, vlm, tokens + [tokens[w] for w in grounded], images)
    targets = [first_answer_token(vlm.processor.tokenizer, item.answer) for item in items]
    losses = question_losses(
        logits[: len(items)],
        logits[len(items) : len(asked)],
        torch.tensor(paired, dtype=torch.long, device=logits.device),
        torch.tensor(targets, device=logits.device),
    )
    if not grounded:
        return losses
    own, other = (answer_margin(part, vlm.answers) for part in (logits[grounded], logits[len(asked) :]))
    true = [normalize_answer(asked[w].answer, "presence") == "yes" for w in grounded]
    blank = [image == BLANK_IMAGE for image in substitutes]
    question = [[*range(len(items)), *paired][w] for w in grounded]
    yes, grey, of = (torch.tensor(values, device=logits.device) for values in (true, blank, question))
    return losses._replace(grounding=grounding_losses(own, other, yes, grey, of, len(items)))


def _packed_logits(forward: Forward, vlm: Vlm, tokens: Sequence[list[int]], images: Sequence[str]) -> Tensor:
    """First-answer-token logits [n, vocabulary] of n prompts.

    All wordings meet on the blank image, so its row is longer than the others and would pad them: it is run apart.
    """
    config = vlm.model.config
    rows = pack(tokens, images, config.image_token_id)
    blank = [row for row in rows if images[row.prompts[0]] == BLANK_IMAGE]
    seen = [row for row in rows if images[row.prompts[0]] != BLANK_IMAGE]
    parts, order = [], []
    for part in filter(None, (seen, blank)):
        batch = collate(part, config.text_config.pad_token_id or 0)
        features = torch.stack([vlm.features[images[row.prompts[0]]] for row in part])
        parts.append((batch.to(vlm.device), features.to(vlm.device)))
        order += batch.prompts
    logits = forward(parts)
    return logits[torch.tensor(order, device=logits.device).argsort()]


def train(
    vlm: Vlm, adapted: "PeftModel", steps: Sequence[Step], settings: TrainSettings, accelerator: "Accelerator"
) -> list[StepRecord]:
    """Train the adapter of `vlm.model` in place, one record a step; it is left in eval mode.

    The vision tower is frozen, so each image passes it once, before the first step. Raises InputError if the loss is
    not finite, if memory runs out, or if a step has fewer questions than there are processes.
    """
    if min(len(step.items) for step in steps) < accelerator.num_processes:
        raise InputError(
            f"A step of {settings.batch_size} questions does not reach for {accelerator.num_processes} processes. "
            "Give a larger --batch-size."
        )
    parameters = [p for p in adapted.parameters() if p.requires_grad]
    optimizer: Any = torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay)
    schedule: Any = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate(step, len(steps), settings.warmup_share)
    )
    module, optimizer, schedule = accelerator.prepare(FirstToken(adapted), optimizer, schedule)
    items = [item for step in steps for item in step.items]
    encode_images(vlm, [i.image for i in items] + [i.substitute for i in items if i.substitute is not None])
    torch.manual_seed(settings.seed + accelerator.process_index)
    set_dropout(adapted, True)
    history: list[StepRecord] = []
    shown = track(steps, "training", settings.batch_size) if accelerator.is_main_process else steps
    for number, step in enumerate(shown, start=1):
        ce, kl, grounding = _accumulate(module, vlm, step, settings, accelerator)
        loss = ce + settings.consistency_weight * kl + settings.grounding_weight * grounding
        if not math.isfinite(loss):
            raise InputError(f"The loss of training step {number} is not finite. Lower --lr, or try --dtype float32.")
        norm = float(accelerator.clip_grad_norm_(parameters, settings.max_grad_norm))
        lr = optimizer.param_groups[0]["lr"]
        history.append(StepRecord(number, step.epoch + 1, lr, loss, ce, kl, grounding, norm))
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    set_dropout(adapted, False)
    return history


def _accumulate(
    module: Any, vlm: Vlm, step: Step, settings: TrainSettings, accelerator: "Accelerator"
) -> tuple[float, float, float]:
    """Add the gradient of this process's share of a step; returns the whole step's mean of each part of the losses.

    Every sum is divided by the size of the global batch, and multiplied by the number of processes, over which DDP
    takes the mean; so the gradient does not depend on how the batch is cut.
    """
    share = step.items[accelerator.process_index :: accelerator.num_processes]
    size = settings.micro_batch_size
    chunks = [share[i : i + size] for i in range(0, len(share), size)]
    sums = torch.zeros(len(Losses._fields), device=vlm.device)

    def backward(items: Sequence[Item]) -> None:
        losses = packed_losses(module, vlm, items)
        total = losses.cross_entropy + settings.consistency_weight * losses.divergence
        total = (total + settings.grounding_weight * losses.grounding).sum()
        accelerator.backward(total * accelerator.num_processes / len(step.items))
        sums.add_(torch.stack([part.detach().sum() for part in losses]))

    try:
        with accelerator.no_sync(module):
            for items in chunks[:-1]:
                backward(items)
        backward(chunks[-1])
    except torch.OutOfMemoryError:
        raise InputError(f"Out of GPU memory at {size} questions a pass. Lower --micro-batch-size.") from None
    ce, kl, grounding = (accelerator.reduce(sums, "sum") / len(step.items)).tolist()
    return ce, kl, grounding

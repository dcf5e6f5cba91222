"""Training an adapter, built on accelerate: `accelerate launch` shards every batch over the processes."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from finetune.frozen import FrozenLayers
from finetune.lora import set_dropout
from finetune.loss import Losses
from finetune.packed import FirstToken, lay_out, packed_losses, prompts_of
from finetune.plan import Item, Step
from finetune.settings import TrainSettings
from interp.errors import InputError
from interp.image_tokens import encode_images
from interp.later import fetched
from interp.memory import memory_left
from interp.progress import track
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
    """Answer weight * cross-entropy + consistency weight * divergence + grounding weight * grounding term, mean over
    the questions of the step, before the update."""
    ce: float
    """Cross-entropy of the first answer token [nats]."""
    kl: float
    """Symmetric KL between the two wordings [nats]."""
    grounding: float
    """Grounding term [nats for blank, logits for swap], 0 without one."""
    grad_norm: float
    """Norm of the gradient before clipping."""


def accelerator_for(device: str) -> "Accelerator":
    """The accelerator of a device: auto (a GPU if there is one), cpu or cuda. Raises InputError for another."""
    from accelerate import Accelerator, DistributedDataParallelKwargs

    available = torch.cuda.is_available()
    if device not in ("auto", "cpu", "cuda") or (device == "cuda" and not available):
        raise InputError(
            f"--device {device}: expected auto, cpu"
            + (" or cuda" if available else "; there is no CUDA GPU here")
            + "."
            " Choose among several GPUs with the environment variable CUDA_VISIBLE_DEVICES."
        )
    # The base model keeps its own dtype and the adapter is float32, so no autocast on top; the schedule counts steps.
    return Accelerator(
        cpu=device == "cpu" or not available,
        mixed_precision="no",
        step_scheduler_with_optimizer=False,
        # No buffer changes, and a process must not wait in a pass for others that make fewer of them.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )


def learning_rate(step: int, steps: int, warmup_share: float) -> float:
    """Share of the peak learning rate at `step` (from 0) of `steps`: a linear rise, then a cosine towards zero."""
    warmup = math.ceil(warmup_share * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def train(
    vlm: Vlm, adapted: "PeftModel", steps: Sequence[Step], settings: TrainSettings, accelerator: "Accelerator"
) -> list[StepRecord]:
    """Train the adapter of `vlm.model` in place, one record a step; it is left in eval mode.

    Vision tower and lower layers are frozen, so each image and each wording passes them once, before the first step.
    Raises InputError if the loss is not finite, after which the adapter is worth nothing; if memory runs out; or if a
    step has fewer questions than there are processes.
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
    frozen = _frozen(vlm, steps, accelerator)
    torch.manual_seed(settings.seed + accelerator.process_index)
    set_dropout(adapted, True)
    shown = track(steps, "training", settings.batch_size) if accelerator.is_main_process else steps
    history = _take_steps(module, frozen, shown, settings, accelerator, optimizer, schedule)
    set_dropout(adapted, False)
    return history


def _take_steps(
    module: Any,
    frozen: FrozenLayers,
    steps: Iterable[Step],
    settings: TrainSettings,
    accelerator: "Accelerator",
    optimizer: Any,
    schedule: Any,
) -> list[StepRecord]:
    """All optimizer steps, one record each."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    size = settings.micro_batch_size or settings.batch_size
    history: list[StepRecord] = []
    launched = None
    for number, step in enumerate(steps, start=1):
        sums, size = _accumulate(module, frozen, step, settings, accelerator, size)
        if accelerator.num_processes > 1:
            _add_up(parameters, accelerator)
        sums = accelerator.reduce(sums, "sum") / len(step.items)
        norm: Any = accelerator.clip_grad_norm_(parameters, settings.max_grad_norm)
        lr = optimizer.param_groups[0]["lr"]
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        # One step behind, so that this one is laid out and launched while the GPU is at the one before.
        if launched is not None:
            history.append(_record(*launched, settings))
        launched = number, step.epoch + 1, lr, fetched(torch.cat([sums, norm[None]]))
    if launched is not None:
        history.append(_record(*launched, settings))
    return history


def _record(step: int, epoch: int, lr: float, arrived: Callable[[], Tensor], settings: TrainSettings) -> StepRecord:
    """A step whose losses and gradient norm [4] have `arrived`. Raises InputError if its loss is not finite."""
    ce, kl, grounding, norm = arrived().tolist()
    loss = settings.answer_weight * ce + settings.consistency_weight * kl + settings.grounding_weight * grounding
    if not math.isfinite(loss):
        raise InputError(f"The loss of training step {step} is not finite. Lower --lr, or try --dtype float32.")
    return StepRecord(step, epoch, lr, loss, ce, kl, grounding, norm)


def _share(step: Step, accelerator: "Accelerator") -> list[Item]:
    """This process's questions of a step."""
    return step.items[accelerator.process_index :: accelerator.num_processes]


def _frozen(vlm: Vlm, steps: Sequence[Step], accelerator: "Accelerator") -> FrozenLayers:
    """Pass all that this process will ask through the frozen part of the model."""
    prompts = [prompt for step in steps for prompt in prompts_of(_share(step, accelerator))]
    encode_images(vlm, [prompt.image for prompt in prompts])
    frozen = FrozenLayers(vlm)
    # Images and questions remain to be held beside, and other processes of this machine do the same.
    frozen.keep(prompts, memory_left(vlm.device).host // (2 * accelerator.num_processes))
    return frozen


def _accumulate(
    module: Any, frozen: FrozenLayers, step: Step, settings: TrainSettings, accelerator: "Accelerator", size: int
) -> tuple[Tensor, int]:
    """Add this process's part of a step's gradient, `size` questions a pass; fewer where the memory does not hold them.

    Returns the sum of each part of the losses, float32 [3], and the size that the memory held.
    """
    n_questions = len(_share(step, accelerator))
    while True:
        try:
            return _backward(module, frozen, step, settings, accelerator, size), size
        except torch.OutOfMemoryError:
            if settings.micro_batch_size is not None:
                raise InputError(f"Out of GPU memory at {size} questions a pass. Lower --micro-batch-size.") from None
            if min(size, n_questions) == 1:
                raise InputError(
                    "Out of GPU memory at one question a pass. Lower --rank, or train on fewer or higher layers."
                ) from None
            held = math.ceil(min(size, n_questions) / 2)
        # Behind the except clause: the error holds on to what the attempt had taken.
        size = held
        module.zero_grad()
        torch.cuda.empty_cache()


def _backward(
    module: Any, frozen: FrozenLayers, step: Step, settings: TrainSettings, accelerator: "Accelerator", size: int
) -> Tensor:
    """Divides by the size of the global batch, so that the gradient does not depend on how the batch is cut."""
    share = _share(step, accelerator)
    sums = torch.zeros(len(Losses._fields), device=frozen.vlm.device)
    # Processes may cut their shares differently, so they meet once, behind all passes (`_add_up`), not in one of them.
    with accelerator.no_sync(module):
        for start in range(0, len(share), size):
            losses = packed_losses(module, lay_out(frozen, share[start : start + size]), frozen.vlm.answers)
            total = settings.answer_weight * losses.cross_entropy + settings.consistency_weight * losses.divergence
            total = (total + settings.grounding_weight * losses.grounding).sum()
            accelerator.backward(total / len(step.items))
            sums += torch.stack([part.detach().sum() for part in losses])
    return sums


def _add_up(parameters: Sequence[torch.nn.Parameter], accelerator: "Accelerator") -> None:
    """Sum the gradients over all processes."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    added: Any = accelerator.reduce(torch.cat([g.flatten() for g in gradients]), "sum")
    for gradient, part in zip(gradients, added.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))

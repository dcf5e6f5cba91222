"""Training an adapter, built on accelerate: `accelerate launch` shards every batch over the processes."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from finetune.lora.modules import set_dropout
from finetune.lora.settings import TrainSettings
from finetune.training.batches import Item, Step
from finetune.training.checkpoint import TrainingState
from finetune.training.cuda_graphs import GraphedPasses, Pass
from finetune.training.forward import FirstTokenLogits, TrainingBatch, batch_losses, build_batch, prompts_asked
from finetune.training.loss import Losses
from finetune.training.prefix_states import PrefixStates
from interp.model.image_tokens import encode_images
from interp.model.prompts import AnswerTokens
from interp.model.vlm import Vlm
from interp.runtime.async_copies import to_host_async
from interp.runtime.errors import InputError
from interp.runtime.memory import memory_left
from interp.runtime.progress import notify, track

if TYPE_CHECKING:
    from accelerate import Accelerator
    from accelerate.tracking import GeneralTracker
    from peft import PeftModel
from finetune.lora.history import StepRecord

CHECKPOINT_SECONDS = 60.0
"""From one checkpoint to the next: the most that a killed training loses, on a disk that is fast enough."""
SLOW_CHECKPOINT = CHECKPOINT_SECONDS / 20
"""Seconds that a checkpoint may take. One that takes longer is the longer waited for, so that a twentieth of the time
goes into them at most."""
SaveState = Callable[[TrainingState], None]
"""Puts a checkpoint where a later run finds it."""


def accelerator_for(
    device: str, log_with: "str | GeneralTracker | None" = None, logs: Path | None = None
) -> "Accelerator":
    """The accelerator of a device: auto (a GPU if there is one), cpu or cuda. Raises InputError for another.

    `log_with` is a tracker that its `log` goes to (`finetune.training.trackers`), with files in the folder `logs`.
    """
    from accelerate import Accelerator
    from accelerate.utils import ProjectConfiguration

    available = torch.cuda.is_available()
    if device not in ("auto", "cpu", "cuda") or (device == "cuda" and not available):
        raise InputError(
            f"--device {device}: expected auto, cpu"
            + (" or cuda" if available else "; there is no CUDA GPU here")
            + "."
            " Choose among several GPUs with the environment variable CUDA_VISIBLE_DEVICES."
        )
    # The base model keeps its own dtype and the adapter is float32, so no autocast on top.
    return Accelerator(
        cpu=device == "cpu" or not available,
        mixed_precision="no",
        log_with=log_with,
        project_config=ProjectConfiguration(logging_dir=None if logs is None else str(logs)),
    )


LOGGED = tuple(name for name in StepRecord._fields if name != "step")
"""What goes to a tracker of every step."""


def learning_rate(step: int, steps: int, warmup_share: float) -> float:
    """Share of the peak learning rate at `step` (from 0) of `steps`: a linear rise, then a cosine towards zero."""
    warmup = math.ceil(warmup_share * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def train(
    vlm: Vlm,
    adapted: "PeftModel",
    steps: Sequence[Step],
    settings: TrainSettings,
    accelerator: "Accelerator",
    saved: TrainingState | None = None,
    keep: SaveState | None = None,
) -> list[StepRecord]:
    """Train the adapter of `vlm.model` in place, one record a step; it is left in eval mode.

    Vision tower and lower layers are frozen, so each image and each wording passes them once, before the first step.
    The main process hands a checkpoint to `keep` every CHECKPOINT_SECONDS and behind the last step; every process goes
    on from `saved`, to the result that it would have come to without a break. Raises InputError if a loss or gradient
    is not finite, of which no checkpoint holds anything; if memory runs out; or if a step has fewer questions than
    there are processes.
    """
    if min(len(step.items) for step in steps) < accelerator.num_processes:
        raise InputError(
            f"A step of {settings.batch_size} questions does not reach for {accelerator.num_processes} processes. "
            "Give a larger --batch-size."
        )
    named = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    if saved is not None:
        for name, parameter in named.items():
            parameter.data.copy_(saved.weights[name])
        if len(saved.history) == len(steps):
            set_dropout(adapted, False)
            return _records(saved)
    optimizer: Any = torch.optim.AdamW(named.values(), lr=settings.lr, weight_decay=settings.weight_decay)
    # The module is not prepared: processes may cut their shares of a step differently, so that they add their gradients
    # up once (`_sum_gradients`), behind all passes, not in one of them as DDP would.
    optimizer = accelerator.prepare(optimizer)
    passes = _passes(adapted, vlm.answers, settings, vlm.device)
    frozen = _prefix_states(vlm, steps, accelerator)
    torch.manual_seed(settings.seed + accelerator.process_index)
    run = _Training(passes, named, optimizer, frozen, settings, accelerator, len(steps))
    set_dropout(adapted, True)
    history = _take_steps(run, steps, saved, keep)
    set_dropout(adapted, False)
    return history


class _Training(NamedTuple):
    """What stays the same from step to step."""

    passes: Pass
    """Adds the gradient of some questions."""
    named: dict[str, torch.nn.Parameter]
    """The trained parameters."""
    optimizer: Any
    """Of these, as accelerate wraps it."""
    frozen: PrefixStates
    """What enters the module."""
    settings: TrainSettings
    """Of the training."""
    accelerator: "Accelerator"
    """The processes."""
    n_steps: int
    """Steps in all."""


class _PendingStep(NamedTuple):
    """A step whose losses are under way."""

    number: int
    """Counted from 1."""
    step: Step
    """What it learns from."""
    lr: float
    """Its learning rate."""
    arrived: Callable[[], Tensor]
    """Gives cross-entropy, divergence, grounding term, whether a checkpoint is due, and gradient norm: [5]."""


def _take_steps(
    run: _Training, steps: Sequence[Step], saved: TrainingState | None, keep: SaveState | None
) -> list[StepRecord]:
    """All optimizer steps that `saved` has not behind it; one record each, and of those before."""
    settings, accelerator = run.settings, run.accelerator
    parameters = list(run.named.values())
    size, history = settings.micro_batch_size or settings.batch_size, list[StepRecord]()
    if saved is not None:
        size, history = _restore(run, saved)
    # A GPU has the next step to do while the losses of one arrive; on a CPU they are there, and stop a bad update.
    behind = 0 if run.frozen.vlm.device.type == "cpu" else 1
    launched: deque[_PendingStep] = deque()
    written, pause = time.monotonic(), CHECKPOINT_SECONDS

    def settle() -> bool:
        """Note the oldest step under way, and tell whether the main process found a checkpoint to be due in it."""
        record, due = _record(launched.popleft(), settings)
        history.append(record)
        numbers = record._asdict()
        accelerator.log({f"train/{name}": numbers[name] for name in LOGGED}, step=record.step)
        return due

    left = steps[len(history) :]
    shown: Iterable[Step] = track(left, "training", settings.batch_size) if accelerator.is_main_process else left
    for number, step in enumerate(shown, start=len(history) + 1):
        sums, size = _accumulate(run, step, size)
        if accelerator.num_processes > 1:
            _sum_gradients(parameters, accelerator)
        # Only one clock counts, and all processes learn what it says from the same step.
        due = accelerator.is_main_process and time.monotonic() - written >= pause
        sums = accelerator.reduce(torch.cat([sums / len(step.items), sums.new_full((1,), float(due))]), "sum")
        norm: Any = accelerator.clip_grad_norm_(parameters, settings.max_grad_norm)
        lr = settings.lr * learning_rate(number - 1, run.n_steps, settings.warmup_share)
        launched.append(_PendingStep(number, step, lr, to_host_async(torch.cat([sums, norm[None]]))))
        write = settle() if not behind else False
        for group in run.optimizer.param_groups:
            group["lr"] = lr
        run.optimizer.step()
        # Recorded passes write to the gradients where they are.
        run.optimizer.zero_grad(set_to_none=False)
        if len(launched) > behind:
            write = settle()
        if keep is not None and (write or number == run.n_steps):
            while launched:
                settle()
            state = _snapshot(run, history, size)
            begun = time.monotonic()
            if accelerator.is_main_process:
                keep(state)
            written = time.monotonic()
            pause = CHECKPOINT_SECONDS * max(1.0, (written - begun) / SLOW_CHECKPOINT)
    while launched:
        settle()
    return history


def _snapshot(run: _Training, history: Sequence[StepRecord], size: int) -> TrainingState:
    """What the next step depends on; all processes must call it. Raises InputError if a weight is not finite."""
    if not all(bool(torch.isfinite(p).all()) for p in run.named.values()):
        raise InputError(f"A weight is not finite behind training step {len(history)}. Lower --lr.")
    device = run.frozen.vlm.device
    random = [torch.get_rng_state()]
    if device.type == "cuda":
        random.append(torch.cuda.get_rng_state(device))
    gathered: Any = run.accelerator.gather(torch.cat(random).to(device)[None])
    sizes: Any = run.accelerator.gather(torch.tensor([size], device=device))
    moments = {f"{n}.{k}": v for n, p in run.named.items() for k, v in run.optimizer.state[p].items()}
    weights = {name: parameter.detach() for name, parameter in run.named.items()}
    return TrainingState(weights, moments, gathered, sizes, torch.tensor(history, dtype=torch.float64))


def _restore(run: _Training, saved: TrainingState) -> tuple[int, list[StepRecord]]:
    """Put the optimizer and this process's random numbers where they were; its questions a pass, and the records."""
    for name, parameter in run.named.items():
        held = {key.removeprefix(f"{name}."): v for key, v in saved.moments.items() if key.startswith(f"{name}.")}
        # The count of steps stays in main memory, where the optimizer keeps it.
        run.optimizer.state[parameter] = {k: v if k == "step" else v.to(parameter.device) for k, v in held.items()}
    place, device = run.accelerator.process_index, run.frozen.vlm.device
    length = len(torch.get_rng_state())
    # Copies, as torch reads them at addresses that a part of a tensor need not begin at.
    torch.set_rng_state(saved.random[place, :length].clone())
    if device.type == "cuda":
        torch.cuda.set_rng_state(saved.random[place, length:].clone(), device)
    return run.settings.micro_batch_size or int(saved.sizes[place]), _records(saved)


def _records(saved: TrainingState) -> list[StepRecord]:
    return [StepRecord(int(step), int(epoch), *rest) for step, epoch, *rest in saved.history.tolist()]


def _record(launched: _PendingStep, settings: TrainSettings) -> tuple[StepRecord, bool]:
    """A step whose losses have arrived, and whether a checkpoint is due. Raises InputError if one is not finite."""
    number, step, lr, arrived = launched
    ce, kl, grounding, due, norm = arrived().tolist()
    loss = settings.answer_weight * ce + settings.consistency_weight * kl + settings.grounding_weight * grounding
    if not (math.isfinite(loss) and math.isfinite(norm)):
        what = "gradient" if math.isfinite(loss) else "loss"
        raise InputError(
            f"The {what} of training step {number} is not finite, on a batch of {len(step.items)} questions. Lower "
            "--lr, or try --dtype float32, and begin anew."
        )
    return StepRecord(number, step.epoch + 1, lr, loss, ce, kl, grounding, norm), due > 0


def _own_items(step: Step, accelerator: "Accelerator") -> list[Item]:
    """This process's questions of a step; by image, so that one image mostly falls to one process in all epochs."""
    if accelerator.num_processes == 1:
        return step.items
    first, last = (
        place * len(step.items) // accelerator.num_processes
        for place in (accelerator.process_index, accelerator.process_index + 1)
    )
    return sorted(step.items, key=lambda item: item.image)[first:last]


def _prefix_states(vlm: Vlm, steps: Sequence[Step], accelerator: "Accelerator") -> PrefixStates:
    """Pass all that this process will ask through the frozen part of the model."""
    prompts = [prompt for step in steps for prompt in prompts_asked(_own_items(step, accelerator))]
    encode_images(vlm, [prompt.image for prompt in prompts])
    frozen = PrefixStates(vlm)
    # Images and questions remain to be held beside.
    frozen.keep(prompts, memory_left(vlm.device).host // 2)
    return frozen


def _accumulate(run: _Training, step: Step, size: int) -> tuple[Tensor, int]:
    """Add this process's part of a step's gradient, `size` questions a pass; fewer where the memory does not hold them.

    Returns the sum of each part of the losses, float32 [3], and the size that the memory held.
    """
    n_questions = len(_own_items(step, run.accelerator))
    while True:
        try:
            return _backward(run, step, size), size
        except torch.OutOfMemoryError:
            if run.settings.micro_batch_size is not None:
                raise InputError(f"Out of GPU memory at {size} questions a pass. Lower --micro-batch-size.") from None
            if min(size, n_questions) == 1:
                raise InputError(
                    "Out of GPU memory at one question a pass. Lower --rank, or train on fewer or higher layers."
                ) from None
            held = math.ceil(min(size, n_questions) / 2)
        # Behind the except clause: the error holds on to what the attempt had taken.
        notify(
            f"Out of GPU memory at {min(size, n_questions)} questions a pass: going on with {held}, to the same loss."
        )
        size = held
        run.optimizer.zero_grad(set_to_none=False)
        if isinstance(run.passes, GraphedPasses):
            run.passes.forget()
        torch.cuda.empty_cache()


def _backward(run: _Training, step: Step, size: int) -> Tensor:
    """Divides by the size of the global batch, so that the gradient does not depend on how the batch is cut."""
    frozen, share = run.frozen, _own_items(step, run.accelerator)
    sums = torch.zeros(len(Losses._fields), device=frozen.vlm.device)
    count = torch.full((), float(len(step.items)), device=frozen.vlm.device)
    for start in range(0, len(share), size):
        sums += run.passes(build_batch(frozen, share[start : start + size]), count)
    return sums


def _passes(adapted: "PeftModel", answers: AnswerTokens, settings: TrainSettings, device: torch.device) -> Pass:
    """The pass of some questions forth and back, which returns the sum of each part of their losses, float32 [3]."""
    module = FirstTokenLogits(adapted)

    def run(laid: TrainingBatch, count: Tensor) -> Tensor:
        losses = batch_losses(module, laid, answers)
        total = settings.answer_weight * losses.cross_entropy + settings.consistency_weight * losses.divergence
        ((total + settings.grounding_weight * losses.grounding).sum() / count).backward()
        return torch.stack([part.detach().sum() for part in losses])

    return GraphedPasses(run) if device.type == "cuda" else run


def _sum_gradients(parameters: Sequence[torch.nn.Parameter], accelerator: "Accelerator") -> None:
    """Sum the gradients over all processes."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    added: Any = accelerator.reduce(torch.cat([g.flatten() for g in gradients]), "sum")
    for gradient, part in zip(gradients, added.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))

"""The training loop, built on accelerate: `accelerate launch` splits every batch over the processes."""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from finetune.lora.history import EpochScores, StepRecord
from finetune.lora.modules import set_dropout
from finetune.lora.settings import Schedule, TrainSettings
from finetune.training.batches import Item, Step
from finetune.training.checkpoint import TrainingState
from finetune.training.cuda_graphs import GraphedPasses, Pass
from finetune.training.forward import FirstTokenLogits, TrainingBatch, batch_losses, build_batch, prompts_asked
from finetune.training.loss import Losses, Objective, objective_of, total_loss
from finetune.training.prefix_states import PrefixStates
from finetune.training.validation import Validation
from interp.model.image_tokens import encode_images
from interp.model.vlm import Vlm
from interp.runtime.async_copies import to_host_async
from interp.runtime.distributed import process_count, team_on
from interp.runtime.errors import InputError
from interp.runtime.memory import memory_left
from interp.runtime.prefetch import map_beside
from interp.runtime.progress import notify, track

if TYPE_CHECKING:
    from accelerate import Accelerator
    from accelerate.tracking import GeneralTracker
    from peft import PeftModel

CHECKPOINT_SECONDS = 60.0
"""Time between checkpoints, which is what a killed training loses at most if the disk is fast enough."""
SLOW_CHECKPOINT = CHECKPOINT_SECONDS / 20
"""Seconds that a checkpoint may take. After a slower one the next is written later, so that checkpoints take at most a
twentieth of the time."""
SaveState = Callable[[TrainingState], None]
"""Writes a checkpoint to where a later run finds it."""


def accelerator_for(
    device: str, log_with: "str | GeneralTracker | None" = None, logs: Path | None = None
) -> "Accelerator":
    """The accelerator for a device: auto (a GPU if there is one), cpu or cuda. Raises InputError for any other.

    `log_with` is the tracker that receives its log (`finetune.training.trackers`); files are written to `logs`.
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
    if process_count() > 1:
        # accelerate would wait without end for processes that do not come, and leave threads of gloo to the end.
        team_on("cpu" if device == "cpu" or not available else "cuda")
    # The base model keeps its dtype and the adapter is float32, so accelerate adds no autocast.
    return Accelerator(
        cpu=device == "cpu" or not available,
        mixed_precision="no",
        log_with=log_with,
        project_config=ProjectConfiguration(logging_dir=None if logs is None else str(logs)),
    )


LOGGED = tuple(name for name in StepRecord._fields if name != "step")
"""The fields of a step that trackers receive."""


def learning_rate(step: int, steps: int, warmup_share: float, schedule: Schedule) -> float:
    """Share of the peak learning rate at `step` (from 0) of `steps`: a linear warm-up, then the schedule."""
    warmup = math.ceil(warmup_share * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done, left = step - warmup, max(1, steps - warmup)
    if schedule == "linear":
        return 1 - done / left
    return 1.0 if schedule == "constant" else 0.5 * (1 + math.cos(math.pi * done / left))


def train(
    vlm: Vlm,
    adapted: "PeftModel",
    steps: Sequence[Step],
    settings: TrainSettings,
    accelerator: "Accelerator",
    saved: TrainingState | None = None,
    keep: SaveState | None = None,
    validation: Validation | None = None,
) -> list[StepRecord]:
    """Train the adapter of `vlm.model` in place and leave it in eval mode; returns one record per step.

    Vision tower and lower layers are frozen, so every image and every wording passes through them once, before the
    first step. The main process passes a checkpoint to `keep` every CHECKPOINT_SECONDS and after the last step. From
    `saved`, every process resumes to the result of an uninterrupted training. The samples of `validation` are asked
    before the first step and after every epoch.

    Raises InputError if a loss or a gradient is not finite, which no checkpoint ever contains; if memory runs out; or
    if a step has fewer questions than there are processes.
    """
    if min(len(step.items) for step in steps) < accelerator.num_processes:
        raise InputError(
            f"A step of {settings.batch_size} questions is too small for {accelerator.num_processes} processes. "
            "Give a larger --batch-size."
        )
    named = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    if saved is not None:
        for name, parameter in named.items():
            parameter.data.copy_(saved.weights[name])
        if validation is not None:
            validation.scores = [EpochScores.of(row) for row in saved.scores.tolist()]
        if len(saved.history) == len(steps):
            set_dropout(adapted, False)
            return _records(saved)
    # On a GPU, one kernel for many parameters, also where their gradients are set to zero.
    together = True if vlm.device.type == "cuda" else None
    optimizer: Any = torch.optim.AdamW(
        named.values(), lr=settings.lr, weight_decay=settings.weight_decay, fused=together
    )
    # The module is not prepared: DDP would sum the gradients in every pass. Processes may divide their share of a step
    # into different numbers of passes, so they sum their gradients once, after all passes (`_sum_gradients`).
    optimizer = accelerator.prepare(optimizer)
    passes = _passes(adapted, objective_of(vlm, settings), vlm)
    prefixes = _prefix_states(vlm, steps, accelerator)
    torch.manual_seed(settings.seed + accelerator.process_index)
    run = _Training(passes, named, optimizer, prefixes, settings, accelerator, len(steps), validation)
    if validation is not None and not validation.scores:
        _validate(validation, 0, 0, accelerator)
    set_dropout(adapted, True)
    history = _take_steps(run, steps, saved, keep)
    set_dropout(adapted, False)
    return history


class _Training(NamedTuple):
    """What stays the same in all steps."""

    passes: Pass
    """Adds the gradient of a batch to the gradients of the parameters."""
    named: dict[str, torch.nn.Parameter]
    """The trained parameters by name."""
    optimizer: Any
    """Their optimizer, wrapped by accelerate."""
    prefixes: PrefixStates
    """The hidden states that enter the lowest trained layer."""
    settings: TrainSettings
    """The settings of the training."""
    accelerator: "Accelerator"
    """Connects the processes."""
    n_steps: int
    """Number of steps in the whole training."""
    validation: Validation | None
    """Asks samples of questions after every epoch; None asks none."""


class _PendingStep(NamedTuple):
    """A step whose losses have not reached main memory yet."""

    number: int
    """Number of the step, from 1."""
    step: Step
    """The questions of the step."""
    lr: float
    """Learning rate of the step."""
    arrived: Callable[[], Tensor]
    """Waits for cross-entropy, divergence, grounding term, whether a checkpoint is due, and gradient norm: float32
    [5]."""


def _take_steps(
    run: _Training, steps: Sequence[Step], saved: TrainingState | None, keep: SaveState | None
) -> list[StepRecord]:
    """Take all optimizer steps that `saved` does not contain; returns the records of all steps."""
    settings, accelerator = run.settings, run.accelerator
    parameters = list(run.named.values())
    size, history = settings.micro_batch_size or settings.batch_size, list[StepRecord]()
    if saved is not None:
        size, history = _restore(run, saved)
    # A GPU computes the next step while the losses of one are copied. On a CPU they are there at once, and a loss that
    # is not finite stops the training before its update.
    lag = 0 if run.prefixes.vlm.device.type == "cpu" else 1
    launched: deque[_PendingStep] = deque()
    written, pause = time.monotonic(), CHECKPOINT_SECONDS

    def settle() -> bool:
        """Record the oldest pending step; returns whether a checkpoint was due at that step."""
        record, due = _record(launched.popleft(), settings)
        history.append(record)
        numbers = record._asdict()
        accelerator.log({f"train/{name}": numbers[name] for name in LOGGED}, step=record.step)
        return due

    left = steps[len(history) :]
    for number, step in enumerate(track(left, "training", settings.batch_size), start=len(history) + 1):
        sums, size = _accumulate(run, step, size)
        if accelerator.num_processes > 1:
            _sum_gradients(parameters, accelerator)
        # The clock of the main process decides for all, which learn of it in the same step.
        due = accelerator.is_main_process and time.monotonic() - written >= pause
        sums = accelerator.reduce(torch.cat([sums / len(step.items), sums.new_full((1,), float(due))]), "sum")
        norm: Any = accelerator.clip_grad_norm_(parameters, settings.max_grad_norm or math.inf)
        lr = settings.lr * learning_rate(number - 1, run.n_steps, settings.warmup_share, settings.schedule)
        launched.append(_PendingStep(number, step, lr, to_host_async(torch.cat([sums, norm[None]]))))
        write = settle() if not lag else False
        for group in run.optimizer.param_groups:
            group["lr"] = lr
        run.optimizer.step()
        # CUDA graphs write to the gradients at fixed addresses.
        run.optimizer.zero_grad(set_to_none=False)
        if len(launched) > lag:
            write = settle()
        if run.validation is not None and (number == run.n_steps or steps[number].epoch > step.epoch):
            while launched:
                write = settle() or write
            _validate(run.validation, step.epoch + 1, number, accelerator)
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


def _validate(validation: Validation, epoch: int, step: int, accelerator: "Accelerator") -> None:
    """Ask the samples after `epoch` epochs, which `step` steps make; trackers receive their scores."""
    found = [each.numbers() for each in validation.ask(epoch)]
    numbers = {name: value for scores in found for name, value in scores.items()}
    accelerator.log({f"validation/{name}": value for name, value in numbers.items() if math.isfinite(value)}, step=step)


def _snapshot(run: _Training, history: Sequence[StepRecord], size: int) -> TrainingState:
    """All that the next step depends on. Every process must call it. Raises InputError if a weight is not finite."""
    if not all(bool(torch.isfinite(p).all()) for p in run.named.values()):
        raise InputError(f"A weight is not finite after training step {len(history)}. Lower --lr.")
    device = run.prefixes.vlm.device
    random = [torch.get_rng_state()]
    if device.type == "cuda":
        random.append(torch.cuda.get_rng_state(device))
    gathered: Any = run.accelerator.gather(torch.cat(random).to(device)[None])
    sizes: Any = run.accelerator.gather(torch.tensor([size], device=device))
    moments = {f"{n}.{k}": v for n, p in run.named.items() for k, v in run.optimizer.state[p].items()}
    weights = {name: parameter.detach() for name, parameter in run.named.items()}
    scores = run.validation.scores if run.validation is not None else []
    records = [torch.tensor(rows, dtype=torch.float64) for rows in (history, scores)]
    return TrainingState(weights, moments, gathered, sizes, *records)


def _restore(run: _Training, saved: TrainingState) -> tuple[int, list[StepRecord]]:
    """Restore the optimizer and the random state of this process; returns its questions per pass, and the records."""
    for name, parameter in run.named.items():
        held = {key.removeprefix(f"{name}."): v for key, v in saved.moments.items() if key.startswith(f"{name}.")}
        run.optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in held.items()}
    place, device = run.accelerator.process_index, run.prefixes.vlm.device
    length = len(torch.get_rng_state())
    # Cloned, because torch needs aligned memory, which a slice of a tensor may not have.
    torch.set_rng_state(saved.random[place, :length].clone())
    if device.type == "cuda":
        torch.cuda.set_rng_state(saved.random[place, length:].clone(), device)
    return run.settings.micro_batch_size or int(saved.sizes[place]), _records(saved)


def _records(saved: TrainingState) -> list[StepRecord]:
    return [StepRecord(int(step), int(epoch), *rest) for step, epoch, *rest in saved.history.tolist()]


def _record(launched: _PendingStep, settings: TrainSettings) -> tuple[StepRecord, bool]:
    """The record of a pending step, and whether a checkpoint is due. Raises InputError if a loss is not finite."""
    number, step, lr, arrived = launched
    ce, kl, grounding, due, norm = arrived().tolist()
    loss = total_loss((ce, kl, grounding), settings)
    if not (math.isfinite(loss) and math.isfinite(norm)):
        what = "gradient" if math.isfinite(loss) else "loss"
        raise InputError(
            f"The {what} of training step {number} is not finite, on a batch of {len(step.items)} questions. Lower "
            "--lr or try --dtype float32, and start again."
        )
    return StepRecord(number, step.epoch + 1, lr, loss, ce, kl, grounding, norm), due > 0


def _own_items(step: Step, accelerator: "Accelerator") -> list[Item]:
    """This process's questions of a step. They are sorted by image, so that an image mostly stays with one process."""
    if accelerator.num_processes == 1:
        return step.items
    first, last = (
        place * len(step.items) // accelerator.num_processes
        for place in (accelerator.process_index, accelerator.process_index + 1)
    )
    return sorted(step.items, key=lambda item: item.image)[first:last]


def _prefix_states(vlm: Vlm, steps: Sequence[Step], accelerator: "Accelerator") -> PrefixStates:
    """Run everything that this process will ask through the frozen part of the model."""
    prompts = [prompt for step in steps for prompt in prompts_asked(_own_items(step, accelerator))]
    prefixes = PrefixStates(vlm)
    # Beside a GPU, which computes the images meanwhile.
    with map_beside(prefixes.tokenize, [prompts], int(vlm.device.type == "cuda")) as tokenized:
        encode_images(vlm, [prompt.image for prompt in prompts])
        next(tokenized)
    # The other half of main memory is for images and questions.
    prefixes.keep(prompts, memory_left(vlm.device, vlm.max_memory).host // 2)
    return prefixes


def _accumulate(run: _Training, step: Step, size: int) -> tuple[Tensor, int]:
    """Add the gradient of this process's part of a step, `size` questions per pass, or fewer if memory runs out.

    Returns the sum of each part of the loss, float32 [3], and the number of questions per pass that fit into memory.
    """
    n_questions = len(_own_items(step, run.accelerator))
    while True:
        try:
            return _backward(run, step, size), size
        except torch.OutOfMemoryError:
            if run.settings.micro_batch_size is not None:
                raise InputError(f"Out of GPU memory at {size} questions per pass. Lower --micro-batch-size.") from None
            if min(size, n_questions) == 1:
                raise InputError(
                    "Out of GPU memory at one question per pass. Lower --rank, train fewer or higher layers, or "
                    "quantize the base with --load-in 4bit."
                ) from None
            held = math.ceil(min(size, n_questions) / 2)
        # After the except clause, because the error keeps the memory of the failed attempt alive.
        notify(
            f"Out of GPU memory at {min(size, n_questions)} questions per pass: continuing with {held}. The loss stays "
            "the same."
        )
        size = held
        run.optimizer.zero_grad(set_to_none=False)
        if isinstance(run.passes, GraphedPasses):
            run.passes.forget()
        torch.cuda.empty_cache()


def _backward(run: _Training, step: Step, size: int) -> Tensor:
    """Divide by the size of the global batch, so that the gradient does not depend on how the batch is divided."""
    prefixes, share = run.prefixes, _own_items(step, run.accelerator)
    sums = torch.zeros(len(Losses._fields), device=prefixes.vlm.device)
    count = torch.full((), float(len(step.items)), device=prefixes.vlm.device)
    # Recorded passes gain more from equal shapes than from shared images. Those with substitutes are not recorded.
    recorded = isinstance(run.passes, GraphedPasses) and not any(item.substitute for item in share)
    for start in range(0, len(share), size):
        sums += run.passes(build_batch(prefixes, share[start : start + size], by_question=recorded), count)
    return sums


def _passes(adapted: "PeftModel", objective: Objective, vlm: Vlm) -> Pass:
    """A forward and backward pass over a batch, which returns the sum of each part of the loss, float32 [3]."""
    module, parameters = FirstTokenLogits(adapted), [p for p in adapted.parameters() if p.requires_grad]
    added = [torch.zeros_like(p) for p in parameters]
    for parameter, gradient in zip(parameters, added, strict=True):
        parameter.grad = gradient

    def run(batch: TrainingBatch, count: Tensor) -> Tensor:
        losses = batch_losses(module, batch, objective)
        found = torch.autograd.grad(total_loss(losses, objective.settings).sum() / count, parameters)
        # In a few kernels on a GPU, where `backward` takes one for each.
        torch._foreach_add_(added, list(found))
        return torch.stack([part.detach().sum() for part in losses])

    # LLM.int8 looks for outliers in every product, which no graph can record.
    return GraphedPasses(run) if vlm.device.type == "cuda" and vlm.load_in is None else run


def _sum_gradients(parameters: Sequence[torch.nn.Parameter], accelerator: "Accelerator") -> None:
    """Sum the gradients over all processes."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    added: Any = accelerator.reduce(torch.cat([g.flatten() for g in gradients]), "sum")
    for gradient, part in zip(gradients, added.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))

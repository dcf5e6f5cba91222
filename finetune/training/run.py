"""A complete run: choose the layers, train, evaluate, write the folder."""

import time
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.evaluation.arms import Arm, base_arm
from finetune.evaluation.evaluate import evaluate
from finetune.evaluation.result import Evaluation
from finetune.lora.adapter_folder import record_of, write_adapter
from finetune.lora.history import history_table
from finetune.lora.layers import Choice, LayersSource, choose_layers, read_choice, training_job, verdict_line
from finetune.lora.modules import add_lora
from finetune.lora.seen_texts import text_hashes
from finetune.lora.settings import TrainSettings
from finetune.publishing.card import model_card
from finetune.training.batches import training_steps, wordings
from finetune.training.checkpoint import TrainingState, read_state, write_state
from finetune.training.loop import accelerator_for, train
from finetune.training.trackers import TrackerName, check_tracker, logs_folder, tracked
from finetune.training.validation import Validation
from interp.images.decode import BLANK_IMAGE
from interp.model.image_token_file import encode_into_file
from interp.model.prompts import PromptStyle
from interp.model.spec import ModelSpec, given_model
from interp.model.vlm import Vlm
from interp.questions.schema import Question
from interp.questions.spec import DataSpec, given_data
from interp.questions.tables import fingerprint
from interp.runtime.distributed import team_on
from interp.runtime.progress import notify
from interp.storage.atomic import atomic_folder, refuse_used, write_text
from interp.storage.checkpoint import Checkpoint
from interp.storage.checksums import inputs_digests, weights_fingerprint
from interp.storage.manifest import write_manifest
from interp.storage.provenance import measurement
from interp.storage.working_folder import discard, finished, refuse_unfinished, working, working_folder

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker


def train_and_evaluate(
    model: ModelSpec | str | Path,
    data: DataSpec | str | Path | Sequence[Question],
    out: str | Path,
    settings: TrainSettings = TrainSettings(),
    *,
    layers: str | Iterable[int] | None = None,
    layers_from: LayersSource | None = None,
    resume: bool = False,
    log_with: "TrackerName | GeneralTracker | None" = None,
) -> Evaluation | None:
    """Train an adapter, compare it with its base on other patients, and write both to the new folder `out`.

        >>> settings = finetune.TrainSettings(epochs=1)
        >>> data = interp.DataSpec(limit=16)
        >>> evaluation = finetune.train_and_evaluate(interp.ModelSpec(), data, "adapter", settings, layers="4-5")
        >>> evaluation.find("adapter", "question_flip_rate").after.value < 1
        True

    `model` is a folder, a hub id or a ModelSpec; `data` a JSON Lines file, a DataSpec, or loaded questions of both
    splits. The layers are either `layers`, as "4-5" or [4, 5], or those of `layers_from`: a layers.json, its folder, or
    a search, whose prompt style is then used, with the changes that `model` makes. `log_with` is a tracker that records
    the steps of the training (`finetune.training.trackers`). Under `accelerate launch` all processes train and evaluate
    together; the main one writes and returns the evaluation, the others return None.

    `out` appears only once it is complete. Until then a folder beside it holds a checkpoint
    (`interp.storage.working_folder.working_folder`); `resume` continues from there to the result of an uninterrupted
    run, and returns None if nothing is left to do. Raises InputError for bad input, before the training starts where
    possible, and if another process is writing `out`.
    """
    out, model, data = Path(out), given_model(model), given_data(data)
    if not resume:
        refuse_used(out)
    refuse_unfinished(out, resume)
    chosen_by = read_choice(layers, layers_from)
    if not isinstance(chosen_by, str) and chosen_by.data.split in ("all", data.test_split):
        notify(
            f"The layers were chosen on the {chosen_by.data.split} split, which contains patients of the evaluation, "
            "so they are not fully held out. `interp find-features --split train` keeps them out."
        )
    training_questions, test_questions = data.load_splits()
    check_tracker(log_with, out, resume)
    accelerator = accelerator_for(model.device, log_with, logs_folder(out))
    work = working_folder(out)
    with working(work) if accelerator.is_main_process else nullcontext():
        style = None if isinstance(chosen_by, str) else PromptStyle(**chosen_by.prompt.model_dump())
        job = training_job(chosen_by, settings.rank, settings.batch_size, settings.micro_batch_size)
        vlm = replace(model, device=str(accelerator.device)).load(style, job)
        choice = choose_layers(vlm, chosen_by)
        if not isinstance(chosen_by, str) and accelerator.is_main_process:
            notify(verdict_line(chosen_by))
        inputs = _inputs_of(vlm, choice, training_questions, settings, accelerator.num_processes)
        # The training does not depend on the questions of the evaluation, but the finished folder does.
        whole = inputs | {"test_questions": fingerprint(test_questions)}
        if resume and finished(out, whole):
            if accelerator.is_main_process:
                notify(f"{out}: already complete, so nothing is left to do.")
                discard(work)
            return None
        refuse_used(out)
        checkpoint = Checkpoint(work, inputs)
        saved, before = read_state(checkpoint) or (None, 0.0)
        if accelerator.is_main_process:
            checkpoint.report_unused(checkpoint.used)
        # Read all images now: an unreadable test image should not show only after hours of training.
        images_asked = [*(q.image for q in training_questions), *(q.image for q in test_questions), BLANK_IMAGE]
        encode_into_file(vlm, images_asked, team_on(accelerator.device), work)
        adapted = add_lora(vlm, choice.layers, settings.rank, settings.alpha, settings.dropout, settings.seed)
        steps = training_steps(
            training_questions, settings.epochs, settings.batch_size, settings.seed, settings.grounding
        )
        validation = None
        if settings.validate:
            validation = Validation(vlm, adapted, accelerator, settings, training_questions, test_questions)
        if resume and accelerator.is_main_process:
            notify(f"Resuming after step {len(saved.history) if saved else 0} of {len(steps)}.")
        started = time.monotonic() - before

        def keep(state: TrainingState) -> None:
            write_state(checkpoint, state, time.monotonic() - started)

        logged = asdict(settings) | {"layers": choice.layers, "questions": len(training_questions), "steps": len(steps)}
        with tracked(accelerator, out, logged, inputs):
            history = train(vlm, adapted, steps, settings, accelerator, saved, keep, validation)
        seconds = time.monotonic() - started
        hashes = text_hashes(wordings(steps))
        vlm.team = team_on(accelerator.device)
        # Other processes may have trained; this one alone evaluates.
        with measurement():
            evaluation = evaluate(vlm, [base_arm(adapted), Arm("adapter")], test_questions, hashes, settings.seed)
        if not accelerator.is_main_process:
            return None
        with atomic_folder(out, work) as folder:
            scores = validation.scores if validation is not None else []
            record = record_of(vlm, adapted, choice, training_questions, settings, hashes, history, scores, seconds)
            write_adapter(folder, adapted, vlm.processor, record, history_table(history, scores))
            write_text(folder / "evaluation.json", evaluation.to_json())
            # Replaces the empty template of peft, which names the base by its path on this machine.
            write_text(folder / "README.md", model_card(record, evaluation))
            write_manifest(folder, {path.name: path for path in folder.iterdir()}, whole)
        discard(work)
    return evaluation


def _inputs_of(
    vlm: Vlm, choice: Choice, training_questions: Sequence[Question], settings: TrainSettings, processes: int
) -> dict[str, Any]:
    """All that must be equal for a training to be resumed, and for a finished one to count as this one."""
    # The scores of all epochs must be of the same samples.
    samples = {"validate": settings.validate} if settings.validate else {}
    return (
        settings.determining()
        | samples
        | {
            "layers": choice.layers,
            "training_questions": fingerprint(training_questions),
            "base_weights": weights_fingerprint(vlm.model),
            "prompt": vlm.style._asdict(),
            "arithmetic": vlm.arithmetic if vlm.load_in is None else f"{vlm.arithmetic}, {vlm.load_in}",
            "device": vlm.device.type,
            "processes": processes,
            **inputs_digests(vlm.processor, [question.image for question in training_questions]),
        }
    )

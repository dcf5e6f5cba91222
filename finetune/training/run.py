"""A whole run: choose layers, train, evaluate, write the folder."""

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from finetune.evaluation.arms import Arm, base_arm
from finetune.evaluation.evaluate import Evaluation, evaluate
from finetune.lora.adapter_folder import record_of, write_adapter
from finetune.lora.layers import Choice, choose_layers, read_choice
from finetune.lora.modules import add_lora
from finetune.lora.seen_texts import text_hashes
from finetune.lora.settings import TrainSettings
from finetune.publishing.card import model_card
from finetune.training.batches import plan_steps, wordings
from finetune.training.checkpoint import State, read_state, write_state
from finetune.training.loop import accelerator_for, train
from finetune.training.trackers import TrackerName, check_tracker, logs_folder, tracked
from interp.images.decode import BLANK_IMAGE
from interp.model.image_tokens import encode_together
from interp.model.load import load_vlm
from interp.model.prompts import DEFAULT_STYLE, PromptStyle
from interp.model.vlm import Vlm
from interp.questions.files import Split, load_questions
from interp.questions.schema import Question
from interp.questions.tables import fingerprint
from interp.runtime.distributed import team_on
from interp.runtime.errors import InputError
from interp.runtime.progress import notify
from interp.storage.atomic import atomic_folder, refuse_used, write_text
from interp.storage.checksums import inputs_digests, weights_fingerprint
from interp.storage.manifest import write_manifest
from interp.storage.working_folder import discard, finished, refuse_unfinished, working, working_folder

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker


def train_and_evaluate(
    model: str,
    questions: Path,
    out: Path,
    settings: TrainSettings,
    layers: str | None = None,
    layers_from: Path | None = None,
    images: Path | None = None,
    split: Split = "train",
    test_split: Split = "test",
    device: str = "auto",
    dtype: str = "auto",
    limit: int | None = None,
    revision: str | None = None,
    prompt_changes: Mapping[str, Any] = MappingProxyType({}),
    image_cache: Path | None = None,
    resume: bool = False,
    log_with: "TrackerName | GeneralTracker | None" = None,
) -> Evaluation | None:
    """Train an adapter, compare it with its base on other patients, and write both to the new folder `out`.

    `limit` takes the first questions of each split only; the prompt style is that of the layers.json but for
    `prompt_changes`; `image_cache` is as of `load_vlm`; `log_with` is a tracker that the steps of the training go to
    (`finetune.training.trackers`). Under `accelerate launch` all processes train and evaluate
    together; the main one writes, the others return None. Raises InputError for bad input, before anything is trained
    where it can be known, and if another process makes `out`. Until it is whole `out` does not exist: after an
    interruption a folder beside it (`interp.storage.working_folder.working_folder`) holds a checkpoint, and `resume`
    goes on from
    there to what would have come out without a break; it returns None if nothing is left to do.
    """
    questions, out = Path(questions), Path(out)
    if not resume:
        refuse_used(out)
    refuse_unfinished(out, resume)
    wanted = read_choice(layers, layers_from)
    if not isinstance(wanted, str) and wanted.data.split in ("all", test_split):
        notify(
            f"The layers were chosen on the {wanted.data.split} split, patients of the evaluation included: it is not "
            "wholly held out. `interp find-features --split train` leaves them out."
        )
    taught, asked = load_splits(questions, images, split, test_split, limit)
    check_tracker(log_with, out, resume)
    accelerator = accelerator_for(device, log_with, logs_folder(out))
    work = working_folder(out)
    with working(work) if accelerator.is_main_process else nullcontext():
        style = DEFAULT_STYLE if isinstance(wanted, str) else PromptStyle(**wanted.prompt.model_dump())
        vlm = load_vlm(model, str(accelerator.device), dtype, revision, style._replace(**prompt_changes), image_cache)
        choice = choose_layers(vlm, wanted)
        inputs = _inputs_of(vlm, choice, taught, settings, accelerator.num_processes)
        # The training does not depend on what is asked behind it, but a whole folder does.
        whole = inputs | {"test_questions": fingerprint(asked)}
        if resume and finished(out, whole):
            if accelerator.is_main_process:
                notify(f"{out}: is whole, so nothing is left to do.")
                discard(work)
            return None
        refuse_used(out)
        saved, before = read_state(work, inputs) or (None, 0.0)
        # An unreadable test image is better found before hours of training than after.
        images_asked = [*(q.image for q in taught), *(q.image for q in asked), BLANK_IMAGE]
        encode_together(vlm, images_asked, team_on(accelerator.device))
        adapted = add_lora(vlm, choice.layers, settings.rank, settings.alpha, settings.dropout, settings.seed)
        steps = plan_steps(taught, settings.epochs, settings.batch_size, settings.seed, settings.grounding)
        if resume and accelerator.is_main_process:
            notify(f"Going on behind step {len(saved.history) if saved else 0} of {len(steps)}.")
        started = time.monotonic() - before

        def keep(state: State) -> None:
            write_state(work, state, inputs, time.monotonic() - started)

        logged = asdict(settings) | {"layers": choice.layers, "questions": len(taught), "steps": len(steps)}
        with tracked(accelerator, out, logged, inputs):
            history = train(vlm, adapted, steps, settings, accelerator, saved, keep)
        seconds = time.monotonic() - started
        hashes = text_hashes(wordings(steps))
        vlm.team = team_on(accelerator.device)
        evaluation = evaluate(vlm, [base_arm(adapted), Arm("adapter")], asked, hashes, settings.seed)
        if not accelerator.is_main_process:
            return None
        with atomic_folder(out, work) as folder:
            record = record_of(vlm, adapted, choice, taught, settings, hashes, history, seconds)
            write_adapter(folder, adapted, record, history)
            write_text(folder / "evaluation.json", evaluation.to_json())
            # In place of the empty form that peft wrote, which names the base by its path on this machine.
            write_text(folder / "README.md", model_card(record, evaluation))
            write_manifest(folder, {path.name: path for path in folder.iterdir()}, whole)
        discard(work)
    return evaluation


def _inputs_of(
    vlm: Vlm, choice: Choice, taught: Sequence[Question], settings: TrainSettings, processes: int
) -> dict[str, Any]:
    """What must be the same for a training to be gone on with, and for a finished one to be this one."""
    # How a batch is cut changes nothing but which of its numbers dropout hits.
    chosen = {name: value for name, value in asdict(settings).items() if name != "micro_batch_size"}
    return chosen | {
        "layers": choice.layers,
        "training_questions": fingerprint(taught),
        "base_weights": weights_fingerprint(vlm.model),
        "prompt": vlm.style._asdict(),
        "arithmetic": vlm.arithmetic,
        "device": vlm.device.type,
        "processes": processes,
        **inputs_digests(vlm.processor, [question.image for question in taught]),
    }


def load_splits(
    questions: Path, images: Path | None, split: Split, test_split: Split, limit: int | None
) -> tuple[list[Question], list[Question]]:
    """The questions to train on, which have answers, and those to evaluate on: the first `limit` of each.

    Raises InputError for bad input, for a patient in both, and if none to train on has an answer.
    """
    taught, asked = (load_questions(questions, images, part) for part in (split, test_split))
    shared = {q.group for q in taught} & {q.group for q in asked}
    if shared:
        raise InputError(
            f"{len(shared)} patients are in both the training and the test questions, so the evaluation would "
            "not be of held-out patients. Give --split and --test-split that do not overlap."
        )
    taught = [q for q in taught if q.answer is not None]
    if not taught:
        raise InputError(f"{questions}: none of the questions to train on has an answer. Add the 'answer' fields.")
    return taught[:limit], asked[:limit]

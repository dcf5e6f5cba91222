"""Training and asking every arm of an ablation in turn, on one model in memory; finished arms are not repeated.

Each of several processes has its own model and takes whole arms, so an arm's result does not depend on their number.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from finetune.ablation.arm_files import file_name, read_answers, write_answers
from finetune.ablation.metrics import HeldOutQuestions, held_out_questions, measure_value
from finetune.ablation.plan import PlannedArm, check_gate_arms, plan_arms
from finetune.ablation.result import Ablation, Trained, summarize
from finetune.ablation.settings import DEFAULT_SETTINGS, AblationSettings
from finetune.evaluation.answers import Answers
from finetune.evaluation.collect import Swaps, collect_answers, swap_images
from finetune.evaluation.engine import PackedEngine
from finetune.lora.adapter_folder import record_of, write_apart
from finetune.lora.history import history_table
from finetune.lora.layers import Choice, LayersSource, choose_layers, read_choice, training_job, verdict_line
from finetune.lora.modules import add_lora, parameters_per_rank, trainable_parameters
from finetune.lora.seen_texts import text_hashes
from finetune.training.batches import training_steps, wordings
from finetune.training.loop import accelerator_for, train
from finetune.training.sensitivity import sensitivities
from interp.images.decode import BLANK_IMAGE
from interp.model.blank_images import encode_blanks
from interp.model.image_token_file import encode_into_file
from interp.model.model_entry import model_entry
from interp.model.prompts import PromptStyle
from interp.model.spec import ModelSpec, given_model
from interp.model.vlm import Vlm
from interp.questions.schema import Question
from interp.questions.spec import DataSpec, given_data
from interp.questions.tables import fingerprint
from interp.runtime.distributed import ALONE, Team, claim_gpu, single_process_environment, team_on
from interp.schemas.ablation import AblationData, ArmRecord, ArmTraining
from interp.schemas.layers import Layers, ProfileEntry, PromptEntry
from interp.storage.atomic import refuse_used, sweep
from interp.storage.checkpoint import refuse_other_inputs
from interp.storage.checksums import inputs_digests, weights_fingerprint
from interp.storage.lock import held
from interp.storage.provenance import provenance, software

if TYPE_CHECKING:
    from accelerate import Accelerator

ARMS = "arms"
"""Name of the folder, inside that of the ablation, which holds the arms' answers."""
ADAPTERS = "adapters"
"""Name of the folder of their adapters, if these are kept."""


class ArmRun(NamedTuple):
    """One arm with one training seed, or the base."""

    arm: PlannedArm | None
    """The arm; None for the base."""
    seed: int
    """Seed of its training."""
    path: Path
    """File of its answers, which may not exist yet."""
    adapter: Path | None
    """Folder of its adapter, which may not exist yet; None if it is not kept."""
    match: dict[str, Any]
    """Inputs that an existing file of answers must have been made from."""

    @property
    def name(self) -> str:
        """Name in progress messages."""
        return f"{self.arm.name}, seed {self.seed}" if self.arm else "base"

    @property
    def done(self) -> bool:
        """Whether its answers exist, and its adapter if it is kept."""
        return self.path.is_file() and (self.adapter is None or self.adapter.is_dir())


def ablate_saved(
    model: ModelSpec | str | Path,
    data: DataSpec | str | Path | Sequence[Question],
    out: str | Path,
    layers_from: LayersSource,
    settings: AblationSettings = DEFAULT_SETTINGS,
    *,
    keep_adapters: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Ablation | None:
    """Train the range of `layers_from` and others, and compare them; finished arms in the folder `out` are kept.

        >>> small = finetune.AblationSettings(finetune.TrainSettings(epochs=1), seeds=(0,), kinds=("all",))
        >>> ablation = finetune.ablate_saved(interp.ModelSpec(), interp.DataSpec(limit=8), "ablation", result, small)
        >>> ablation
        <Ablation of planted: ...>

    `model` is a folder, a hub id or a ModelSpec; `data` a JSON Lines file, a DataSpec, or loaded questions of both
    splits; `layers_from` a layers.json, its folder, or a search. The prompt style is that of the layers.json with the
    changes that `model` makes. Raises InputError for bad input, before the training starts where possible, and if
    another process is working in `out`.
    """
    out, model, data = Path(out), given_model(model), given_data(data)
    if not (out / ARMS).is_dir():
        refuse_used(out)
    wanted = read_choice(None, layers_from)
    assert isinstance(wanted, Layers)
    check_gate_arms(wanted.gate, settings)
    taught, asked = data.load_splits()
    # The processes communicate on the CPU: arms take hours, and a GPU that waits in a collective does no other work.
    team = team_on("cpu")
    with single_process_environment():
        accelerator = accelerator_for(model.device)
    if accelerator.device.type == "cuda" and team.size > 1:
        claim_gpu(accelerator.device)
    with held(out) if team.rank == 0 else nullcontext():
        if team.rank == 0:
            # Remove partial files of a run that was killed.
            for folder in (out, out / ARMS, out / ADAPTERS):
                sweep(folder)
        # Arms with the rank of the chosen range on all layers need most.
        job = training_job("all", settings.training.rank, settings.training.batch_size)
        style = PromptStyle(**wanted.prompt.model_dump())
        vlm = replace(model, device=str(accelerator.device)).load(style, job)
        choice = choose_layers(vlm, wanted)
        if team.rank == 0:
            say(verdict_line(wanted))
        return ablate(vlm, choice, wanted.profile, taught, asked, settings, out, accelerator, say, team, keep_adapters)


def ablate(
    vlm: Vlm,
    choice: Choice,
    profile: Sequence[ProfileEntry],
    taught: Sequence[Question],
    asked: Sequence[Question],
    settings: AblationSettings,
    out: Path,
    accelerator: "Accelerator",
    say: Callable[[str], None] = lambda line: None,
    team: Team = ALONE,
    keep_adapters: bool = False,
) -> Ablation | None:
    """Train every arm with every seed, ask it, and compare the arms; `say` gets a line for every finished arm.

    `taught` are the training questions and `asked` those of the evaluation. Each arm's answers are written to a file in
    `out`/arms, and with `keep_adapters` its adapter to a folder in `out`/adapters, both atomically; a finished arm is
    not run again. The processes of a `team` divide the arms; the main one returns the result, the others None. Raises
    InputError before any training if an existing file was made from other inputs, for unreadable images,
    and if there is no closed question with a known answer and a paraphrase to ask.
    """
    held_out = held_out_questions(asked)
    arms = plan_arms(choice.layers, parameters_per_rank(vlm.model), settings, choice.gate)
    same = {
        "base_weights": weights_fingerprint(vlm.model),
        "arithmetic": vlm.arithmetic,
        "prompt": vlm.style._asdict(),
        "test_questions": fingerprint(asked),
        "evaluation_seed": settings.seed,
        **inputs_digests(vlm.processor, [question.image for question in (*taught, *asked)]),
    }
    runs = _planned_runs(arms, settings.seeds, out, same, fingerprint(taught), keep_adapters)
    done = {run.path: read_answers(run.path) for run in runs if run.path.is_file()}
    for run in runs:
        if run.path in done:
            refuse_other_inputs(run.path, done[run.path][1].match, run.match, "choose another --out")
    missing = [run for run in runs if not run.done]
    for run in missing:
        done.pop(run.path, None)
    # No process may write a file before all have listed the existing ones.
    team.barrier()
    if missing:
        if team.rank == 0:
            say(f"{len(missing)} of {len(runs)} arms are to run, each with one seed")
        # Finds unreadable images before hours of training.
        encode_into_file(vlm, [*(q.image for q in taught), *(q.image for q in asked), BLANK_IMAGE], team, out)
        encode_blanks(vlm, list(held_out.prompts["image"]), settings.seed)
    for number, run in team.share(list(enumerate(missing, start=1))):
        done[run.path] = _train_and_ask(vlm, run, choice, taught, held_out, settings.seed, accelerator)
        say(f"{number} of {len(missing)}: {run.name}: {_progress_line(held_out, *done[run.path])}")
    team.barrier()
    if team.rank != 0:
        return None
    done |= {run.path: read_answers(run.path) for run in missing if run.path not in done}
    return summarize(
        held_out,
        done[runs[0].path][0],
        [Trained(arm, [done[run.path] for run in runs if run.arm is arm]) for arm in arms],
        profile,
        sensitivities(vlm, taught, settings.training),
        settings,
        layers_from=choice.source,
        model=model_entry(vlm),
        base_weights=same["base_weights"],
        prompt=PromptEntry(**vlm.style._asdict()),
        data=AblationData(
            trained_on=fingerprint(taught),
            training_questions=len(taught),
            asked=fingerprint(asked),
            questions=len(asked),
            patients=len(held_out.patients),
        ),
    )


def _planned_runs(
    arms: Sequence[PlannedArm], seeds: Sequence[int], out: Path, same: dict[str, Any], taught: str, keep_adapters: bool
) -> list[ArmRun]:
    """List the base, then all arms seed by seed, so that an interruption leaves complete comparisons."""
    runs = [ArmRun(None, 0, out / ARMS / "base.parquet", None, same)]
    for seed in seeds:
        for arm in arms:
            training = replace(arm.training, seed=seed).determining()
            match = same | {"training_questions": taught, "layers": list(arm.layers)} | training
            path = out / ARMS / file_name(arm.kind, arm.layers, seed)
            runs.append(ArmRun(arm, seed, path, out / ADAPTERS / path.stem if keep_adapters else None, match))
    return runs


def _train_and_ask(
    vlm: Vlm,
    run: ArmRun,
    choice: Choice,
    taught: Sequence[Question],
    held_out: HeldOutQuestions,
    seed: int,
    accelerator: "Accelerator",
) -> tuple[Answers, ArmRecord]:
    """Train an arm, ask it and write its files; `vlm` is the base again afterwards."""
    swaps = Swaps(swap_images(held_out.prompts, seed))
    with _trained(vlm, run, choice, taught, accelerator) as training:
        answers = collect_answers(PackedEngine(vlm), held_out.prompts, swaps, 0, run.name)
    kind, layers = (run.arm.kind, list(run.arm.layers)) if run.arm else ("base", [])
    record = ArmRecord(
        kind=kind,
        layers=layers,
        match=run.match,
        training=training,
        software=software(),
        provenance=provenance(),
    )
    write_answers(run.path, answers, record)
    return answers, record


@contextmanager
def _trained(
    vlm: Vlm, run: ArmRun, choice: Choice, taught: Sequence[Question], accelerator: "Accelerator"
) -> Iterator[ArmTraining | None]:
    """Train the adapter of a run and hold it in `vlm` within the context; write it if it is kept.

    The base is left as it is, and gives None.
    """
    if run.arm is None:
        yield None
        return
    settings = replace(run.arm.training, seed=run.seed)
    adapted = add_lora(vlm, run.arm.layers, settings.rank, settings.alpha, settings.dropout, settings.seed)
    try:
        steps = training_steps(taught, settings.epochs, settings.batch_size, settings.seed, settings.grounding)
        started = time.monotonic()
        history = train(vlm, adapted, steps, settings, accelerator)
        seconds = round(time.monotonic() - started, 1)
        if run.adapter is not None and not run.adapter.is_dir():
            own = choice._replace(layers=list(run.arm.layers), source=f"ablation: {run.arm.name}")
            hashes = text_hashes(wordings(steps))
            record = record_of(vlm, adapted, own, taught, settings, hashes, history, [], seconds)
            write_apart(run.adapter, adapted, vlm.processor, record, history_table(history, []))
        last = history[-max(1, len(history) // 10) :]
        ce, kl = (sum(getattr(step, part) for step in last) / len(last) for part in ("ce", "kl"))
        yield ArmTraining(
            parameters=trainable_parameters(adapted),
            steps=len(history),
            cross_entropy=ce,
            divergence=kl,
            seconds=seconds,
        )
    finally:
        adapted.unload()
        # The accelerator would otherwise keep every arm's optimizer in memory.
        accelerator.free_memory()


def _progress_line(held_out: HeldOutQuestions, answers: Answers, record: ArmRecord) -> str:
    flips, accuracy, text_only = (
        measure_value(held_out, answers, name) for name in ("question_flip_rate", "accuracy", "text_only_agreement")
    )
    duration = f" ({record.training.seconds:.0f} s of training)" if record.training else ""
    return f"question flips {flips:.1%}, accuracy {accuracy:.1%}, text-only agreement {text_only:.1%}{duration}"

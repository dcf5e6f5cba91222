"""The `finetune` command without a subcommand: train an adapter and evaluate it."""

from pathlib import Path
from typing import Annotated

import typer

from finetune.cli.options import Alpha, BatchSize, Device, Dtype, Epochs, LearningRate, Limit, TestSplit, TrainSplit
from finetune.lora.settings import Grounding, TrainSettings
from finetune.training.trackers import TrackerName
from interp.cli.options import (
    AnswerInstruction,
    ImageCache,
    ImageFirst,
    Images,
    Json,
    Normalize,
    Questions,
    Resume,
    Revision,
    System,
    Verbose,
    style_changes,
)
from interp.paths import EMBEDDED, WORLD
from interp.runtime.distributed import is_main
from interp.runtime.errors import InputError

DEFAULTS = TrainSettings()
LAYERS = Path("artifacts/layers.json")


def train_command(
    context: typer.Context,
    layers_from: Annotated[
        Path | None,
        typer.Option(help="Train the layers that `interp` found.", show_default=f"{LAYERS} if present"),
    ] = None,
    layers: Annotated[
        str | None, typer.Option(help="Train these layers instead: 15-19, or 9,17, or all.", show_default="none")
    ] = None,
    model: Annotated[
        str, typer.Option(help="Gemma 3 model with images: a folder or a hub id.", show_default=EMBEDDED)
    ] = str(WORLD / "planted"),
    questions: Questions = WORLD / "questions.jsonl",
    images: Images = None,
    split: TrainSplit = "train",
    test_split: TestSplit = "test",
    out: Annotated[Path, typer.Option(help="New folder for adapter and evaluation.")] = Path("artifacts/adapter"),
    rank: Annotated[int, typer.Option(min=1, help="Rank of the update.")] = DEFAULTS.rank,
    alpha: Alpha = DEFAULTS.alpha,
    dropout: Annotated[float, typer.Option(min=0, max=0.99, help="Dropout on the update's input.")] = DEFAULTS.dropout,
    lr: LearningRate = DEFAULTS.lr,
    batch_size: BatchSize = DEFAULTS.batch_size,
    micro_batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Questions a forward pass.", show_default="as many as the GPU's memory holds"),
    ] = DEFAULTS.micro_batch_size,
    epochs: Epochs = DEFAULTS.epochs,
    consistency_weight: Annotated[
        float, typer.Option(min=0, help="Weight of the divergence between two wordings' answers; 0 for answers alone.")
    ] = DEFAULTS.consistency_weight,
    grounding: Annotated[
        Grounding,
        typer.Option(
            help="Hold yes/no answers to the image: blank, undecided without it; swap, less of the true answer on "
            "another patient's, of which the opposite is true."
        ),
    ] = DEFAULTS.grounding,
    grounding_weight: Annotated[
        float, typer.Option(min=0, help="Weight of the grounding term.")
    ] = DEFAULTS.grounding_weight,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = DEFAULTS.seed,
    resume: Resume = False,
    log_with: Annotated[
        TrackerName | None,
        typer.Option(
            help="Log the steps for TensorBoard or W&B too, into OUT.logs. W&B stays offline unless WANDB_MODE says "
            "otherwise.",
            show_default="none",
        ),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    limit: Limit = None,
    revision: Revision = None,
    image_first: ImageFirst = None,
    system: System = None,
    answer_instruction: AnswerInstruction = None,
    normalize: Normalize = None,
    image_cache: ImageCache = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Train a LoRA on a few layers so that rewording a question stops changing the answer, then say whether it worked.

    Each question is paired with a random paraphrase; both are taught the true answer and to answer alike. Base and
    adapter are then compared on held-out patients: flips, accuracy, and how often the answer stays when the image is
    made blank. The folder loads with plain peft.

    On the layers that interp found:

        finetune --layers-from artifacts/layers.json

    On layers of your choice:

    \b
        finetune --layers 15-19 --model google/medgemma-4b-it \\
            --questions mine.jsonl
    """
    if context.invoked_subcommand is not None:
        sources = {name: context.get_parameter_source(name) for name in context.params}
        given = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
        if given:
            raise InputError(
                f"--{given[0].replace('_', '-')} stands before {context.invoked_subcommand}, which does not see it. "
                "Put options behind the command that they are for."
            )
        return
    if layers is None and layers_from is None:
        if not LAYERS.is_file():
            raise InputError(
                f"No layers to train: there is no {LAYERS}. Run `interp find-features` first, or give --layers-from "
                "or --layers."
            )
        layers_from = LAYERS
    settings = TrainSettings(
        rank=rank,
        alpha=alpha,
        dropout=dropout,
        lr=lr,
        batch_size=batch_size,
        micro_batch_size=micro_batch_size,
        epochs=epochs,
        consistency_weight=consistency_weight,
        grounding=grounding,
        grounding_weight=grounding_weight,
        seed=seed,
    )
    from finetune.evaluation.terminal import show_evaluation
    from finetune.training.run import train_and_evaluate

    evaluation = train_and_evaluate(
        model,
        questions,
        out,
        settings,
        layers,
        layers_from,
        images,
        split,
        test_split,
        device,
        dtype,
        limit,
        revision,
        style_changes(image_first, system, answer_instruction, normalize),
        image_cache,
        resume,
        log_with,
    )
    if not is_main():
        return
    if json:
        typer.echo((out / "evaluation.json").read_text(encoding="utf-8"), nl=False)
    elif evaluation is not None:
        show_evaluation(evaluation)
        typer.echo(f"Wrote {out}")

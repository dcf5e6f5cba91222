"""The `finetune` command without a subcommand: train an adapter and evaluate it."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from finetune.cli.options import BASE_DTYPE, TRAINING_DEVICE
from finetune.lora.settings import TrainSettings
from finetune.training.trackers import TrackerName
from interp.cli.dataclass_options import with_options
from interp.cli.options import Full, Json, Resume, Verbose, Version
from interp.model.spec import ModelSpec
from interp.questions.spec import DataSpec
from interp.runtime.distributed import is_main
from interp.runtime.errors import InputError

LAYERS = Path("artifacts/layers.json")


@with_options(device=TRAINING_DEVICE, dtype=BASE_DTYPE)
def train_command(
    context: typer.Context,
    layers_from: Annotated[
        Path | None,
        typer.Option(help="Train the layers that `interp find-features` chose.", show_default=f"{LAYERS} if present"),
    ] = None,
    layers: Annotated[
        str | None, typer.Option(help="Train these layers instead: 15-19, or 9,17, or all.", show_default="none")
    ] = None,
    out: Annotated[Path, typer.Option(help="New folder for adapter and evaluation.")] = Path("artifacts/adapter"),
    *,
    model: ModelSpec,
    data: DataSpec,
    settings: TrainSettings,
    resume: Resume = False,
    log_with: Annotated[
        TrackerName | None,
        typer.Option(
            help="Also log every step for TensorBoard or W&B, into OUT.logs. W&B stays offline unless WANDB_MODE says "
            "otherwise.",
            show_default="none",
        ),
    ] = None,
    version: Version = False,
    full: Full = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Train a LoRA on a few layers so that rewording a question no longer changes the answer, then evaluate it.

    Each question is paired with a random paraphrase. Both are trained towards the true answer, and towards agreement
    with each other. Base and adapter are then compared on held-out patients: flips, accuracy, and how often the answer
    stays the same when the image is blank. The folder loads with plain peft.

    On the layers that interp found:

        finetune --layers-from artifacts/layers.json

    On layers of your choice:

    \b
        finetune --layers 15-19 --model google/medgemma-4b-it \\
            --questions mine.jsonl --images images/
    """
    if context.invoked_subcommand is not None:
        _refuse_options_before(context)
        return
    if layers is None and layers_from is None:
        if not LAYERS.is_file():
            raise InputError(
                f"No layers to train: there is no {LAYERS}. Run `interp find-features` first, or give --layers-from "
                "or --layers."
            )
        layers_from = LAYERS
    from finetune.training.run import train_and_evaluate
    from interp.views.tables.deciding import evaluation_deciding
    from interp.views.tables.evaluation import evaluation_overview
    from interp.views.terminal.screen import show_screen

    evaluation = train_and_evaluate(
        model, data, out, settings, layers=layers, layers_from=layers_from, resume=resume, log_with=log_with
    )
    if not is_main():
        return
    if json:
        typer.echo((out / "evaluation.json").read_text(encoding="utf-8"), nl=False)
    elif evaluation is not None:
        # An adapter is usually in the folder of its search; one of its own is reported alone.
        run = out if out.parent == Path() else out.parent
        files, following = sorted(out.iterdir()), shlex.join(["interp", "report", str(run)])
        show_screen(evaluation_overview(evaluation, full), evaluation_deciding(evaluation), files, following, full)


def _refuse_options_before(context: typer.Context) -> None:
    """Raise InputError for an option before the name of a subcommand, which would not see it."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    given = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    if given:
        raise InputError(
            f"--{given[0].replace('_', '-')} stands before {context.invoked_subcommand}, which does not see it. "
            "Put options after the name of their command."
        )

"""The `finetune ablate` command."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from finetune.ablation.settings import ARM_KINDS, AblationSettings
from finetune.cli.options import BASE_DTYPE, TRAINING_DEVICE
from finetune.lora.settings import TrainSettings
from interp.cli.dataclass_options import with_options
from interp.cli.options import Json, Verbose
from interp.model.spec import ModelSpec
from interp.questions.spec import DataSpec
from interp.runtime.errors import InputError
from interp.runtime.progress import notify

FIXED = (
    "dropout",
    "micro_batch_size",
    "consistency_weight",
    "answer_wordings",
    "spelling",
    "divergence",
    "divergence_over",
    "grounding",
    "grounding_weight",
    "schedule",
    "warmup_share",
    "weight_decay",
    "max_grad_norm",
    "validate",
)
"""Settings of the training that an ablation leaves at their defaults, or varies itself."""


@with_options(without=(*FIXED, "training.seed"), device=TRAINING_DEVICE, dtype=BASE_DTYPE)
def ablate_command(
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for ablation.json, the figure (ablation.png, .svg and .csv) and the answers of every arm, "
            "arms/*.parquet. To continue an ablation, give its folder again: arms that are complete are not repeated.",
            show_default=False,
        ),
    ],
    layers_from: Annotated[
        Path, typer.Option(help="The layers.json that `interp find-features` wrote: the chosen range and its profile.")
    ] = Path("artifacts/layers.json"),
    arms: Annotated[
        str | None,
        typer.Option(
            help="Kinds of arms to compare with the chosen range, separated by commas: window, feature-to-writer, "
            "writers (of the gate in layers.json), third, random, all, all-matched, no-consistency, consistency-only.",
            show_default="all of these",
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas; every arm is trained with each.")] = "0,1,2",
    *,
    settings: AblationSettings,
    model: ModelSpec,
    data: DataSpec,
    training: TrainSettings,
    keep_adapters: Annotated[
        bool, typer.Option("--keep-adapters", help="Also keep the adapter of every arm, a folder each in adapters/.")
    ] = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Ask whether the choice of layers mattered: the same training on other layers, and the regret of the choice.

    The chosen range is compared with all other windows of the same width, with thirds, random sets and all layers, and
    with itself, trained with one of the two loss terms. Data, steps and seeds are the same in every arm; the number of
    parameters is the same unless the name of the arm says otherwise. Every metric has a 95% interval over patients and
    seeds. The regret is how much better the best window is than the chosen range, where the best window is picked on
    some patients and measured on others.

    A complete ablation:

        finetune ablate --out artifacts/ablation

    A first look:

        finetune ablate --out look --seeds 0 --arms window --limit 400
    """
    from finetune.ablation.run import ablate_saved
    from interp.storage.atomic import write_text
    from interp.views.figures.ablation import ablation_drawing
    from interp.views.figures.style import save_figures
    from interp.views.tables.ablation import ablation_overview
    from interp.views.terminal.show import show_overview

    kinds = ARM_KINDS if arms is None else tuple(name.strip() for name in arms.split(","))
    settings = replace(settings, training=training, seeds=parse_seeds(seeds), kinds=kinds)
    found = ablate_saved(model, data, out, layers_from, settings, keep_adapters=keep_adapters, say=notify)
    if found is None:
        return
    # Computed from the arms each time, so these files may be overwritten.
    write_text(out / "ablation.json", found.to_json())
    save_figures([ablation_drawing(found.model_dump())], out)
    if json:
        typer.echo(found.to_json(), nl=False)
    else:
        show_overview(ablation_overview(found))
        typer.echo(f"Wrote {out}")


def parse_seeds(text: str) -> tuple[int, ...]:
    """The numbers of a text such as `0,1,2`. Raises InputError for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"\d{1,9}", part, re.ASCII) for part in parts):
        raise InputError(f"--seeds {text!r}: expected numbers of at most 9 digits, separated by commas, as 0,1,2.")
    return tuple(map(int, parts))

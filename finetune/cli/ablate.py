"""The `finetune ablate` command: argument parsing only."""

import re
from pathlib import Path
from typing import Annotated

import typer

from finetune.cli.options import Alpha, BatchSize, Device, Dtype, Epochs, LearningRate, Limit, TestSplit, TrainSplit
from finetune.lora.settings import TrainSettings
from interp.cli.options import (
    AnswerInstruction,
    ImageCache,
    ImageFirst,
    Images,
    Json,
    Normalize,
    Questions,
    Revision,
    System,
    Verbose,
    style_changes,
)
from interp.paths import EMBEDDED, WORLD
from interp.runtime.errors import InputError
from interp.runtime.progress import notify

DEFAULTS = TrainSettings()


def ablate_command(
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for ablation.json, the figure (ablation.png, .svg and .csv) and the answers of every arm, "
            "arms/*.parquet. To go on with an ablation, name its folder again: arms that are there are not run again.",
            show_default=False,
        ),
    ],
    layers_from: Annotated[
        Path, typer.Option(help="The layers.json that `interp` wrote: the chosen range, and the profile to judge.")
    ] = Path("artifacts/layers.json"),
    arms: Annotated[
        str | None,
        typer.Option(
            help="With commas, what is set beside the chosen range: window, third, random, all, all-matched, "
            "no-consistency, consistency-only.",
            show_default="all of these",
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds that every arm is trained with, with commas.")] = "0,1,2",
    stride: Annotated[int, typer.Option(min=1, help="Layers from one window to the next.")] = 1,
    random: Annotated[int, typer.Option(min=0, help="Random sets of as many layers.")] = 2,
    model: Annotated[
        str, typer.Option(help="Gemma 3 model with images: a folder or a hub id.", show_default=EMBEDDED)
    ] = str(WORLD / "planted"),
    questions: Questions = WORLD / "questions.jsonl",
    images: Images = None,
    split: TrainSplit = "train",
    test_split: TestSplit = "test",
    rank: Annotated[int, typer.Option(min=1, help="Rank of the chosen range's update.")] = DEFAULTS.rank,
    alpha: Alpha = DEFAULTS.alpha,
    lr: LearningRate = DEFAULTS.lr,
    batch_size: BatchSize = DEFAULTS.batch_size,
    epochs: Epochs = DEFAULTS.epochs,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of random sets, swapped images, noise and intervals; not of the training.")
    ] = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    limit: Limit = None,
    revision: Revision = None,
    image_first: ImageFirst = None,
    system: System = None,
    answer_instruction: AnswerInstruction = None,
    normalize: Normalize = None,
    image_cache: ImageCache = None,
    keep_adapters: Annotated[
        bool, typer.Option("--keep-adapters", help="Keep every arm's adapter too, a folder each in adapters/.")
    ] = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Ask whether the choice of the layers mattered: the same training on other layers, and the regret of the choice.

    The chosen range beside all other windows of its width, thirds, random sets and all layers, matched in data, steps
    and seeds, and in parameters unless the arm says otherwise; and the chosen range with half of the loss. Every
    metric has a 95% interval over patients and seeds. The regret is what the best window has over the chosen range,
    where the best one is chosen on other patients than it is measured on.

    All of it:

        finetune ablate --out artifacts/ablation

    A first look:

        finetune ablate --out look --seeds 0 --arms window --limit 400
    """
    from dataclasses import replace

    from finetune.ablation.plan import ARM_KINDS, AblationSettings
    from finetune.ablation.run import ablate_saved
    from finetune.ablation.terminal import show_ablation
    from interp.storage.atomic import write_text
    from interp.views.figures.ablation import ablation_drawing
    from interp.views.figures.style import save_figures

    training = replace(DEFAULTS, rank=rank, alpha=alpha, lr=lr, batch_size=batch_size, epochs=epochs)
    kinds = ARM_KINDS if arms is None else tuple(name.strip() for name in arms.split(","))
    settings = AblationSettings(training, parse_seeds(seeds), kinds, stride, random, seed)
    found = ablate_saved(
        model,
        questions,
        out,
        layers_from,
        settings,
        images,
        split,
        test_split,
        device,
        dtype,
        limit,
        revision,
        style_changes(image_first, system, answer_instruction, normalize),
        image_cache,
        keep_adapters,
        notify,
    )
    if found is None:
        return
    # Made anew from the arms each time, so these may be written over.
    write_text(out / "ablation.json", found.to_json())
    save_figures([ablation_drawing(found.model_dump())], out)
    if json:
        typer.echo(found.to_json(), nl=False)
    else:
        show_ablation(found)
        typer.echo(f"Wrote {out}")


def parse_seeds(text: str) -> tuple[int, ...]:
    """Numbers of `0,1,2`. Raises InputError for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"\d{1,9}", part, re.ASCII) for part in parts):
        raise InputError(f"--seeds {text!r}: expected numbers of at most 9 digits with commas, as 0,1,2.")
    return tuple(map(int, parts))

"""The `finetune grounding` command: argument parsing only."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from finetune.cli.options import BaseModel, Device, Dtype, SplitName
from interp.cli.options import (
    L0,
    AnswerInstruction,
    ImageFirst,
    Images,
    Json,
    Normalize,
    Questions,
    Resume,
    Revision,
    Saes,
    System,
    Verbose,
    Width,
    style_changes,
)
from interp.paths import WORLD
from interp.runtime.errors import InputError

if TYPE_CHECKING:
    from finetune.grounding.study import GroundingStudy


def grounding_command(
    adapter: Annotated[
        Path | None, typer.Argument(help="Folder of a saved adapter to set beside its base.", show_default=False)
    ] = None,
    maps: Annotated[
        str | None,
        typer.Option(help="With commas: attention, rollout, gradient, integrated, occlusion.", show_default="all"),
    ] = None,
    fill: Annotated[
        Literal["grey", "blur", "mean"],
        typer.Option(help="What removed parts are filled with: mid-grey, the image blurred, or its mean colour."),
    ] = "grey",
    layers: Annotated[
        str | None,
        typer.Option(help="Of the attention map, as 15-19; the rollout goes up to the last.", show_default="all"),
    ] = None,
    heads: Annotated[str | None, typer.Option(help="Of the attention map, as 0-3 or 0,2.", show_default="all")] = None,
    feature: Annotated[
        str | None, typer.Option(help="Also the map of an SAE feature, LAYER:FEATURE.", show_default="none")
    ] = None,
    saes: Saes = str(WORLD / "saes"),
    width: Width = None,
    l0: L0 = None,
    model: BaseModel = None,
    questions: Questions = WORLD / "questions.jsonl",
    images: Images = None,
    split: Annotated[SplitName, typer.Option(help="Questions to study.")] = "test",
    any_answer: Annotated[
        bool, typer.Option("--any-answer", help="Also questions with a box whose true answer is not yes.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="New folder for grounding.json, grounding.csv (one row a question and score) and figures.",
            show_default="none",
        ),
    ] = None,
    include_examples: Annotated[
        int,
        typer.Option(min=0, help="Also draw the first N images with their maps and boxes into --out: it shows images."),
    ] = 0,
    resume: Resume = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of random places, orders, partners and intervals.")] = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Study the first N of the questions with boxes only.", show_default="all")
    ] = None,
    revision: Revision = None,
    image_first: ImageFirst = None,
    system: System = None,
    answer_instruction: AnswerInstruction = None,
    normalize: Normalize = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Ask where the model looks, and whether the maps that claim to show it are faithful.

    On yes/no questions with lesion boxes, attention, rollout, gradient, integrated-gradient and occlusion maps are
    judged: do they lie on the lesion, do their cells carry the answer when removed, do they agree across paraphrases?
    Each beside controls (shifted and random boxes, random orders, other images and questions), and beside what filling
    the lesion itself does. With an adapter, base and adapter are compared on the same questions.

    Of the embedded world:

        finetune grounding --limit 30 --out artifacts/grounding

    Base against adapter:

        finetune grounding artifacts/adapter --maps attention --layers 4-5

    With the map of a feature:

    \b
        finetune grounding --feature 17:3818 --model google/medgemma-4b-it \\
            --saes gemma-scope-2-4b-it-res --width 16k --l0 medium \\
            --questions mine.jsonl --images physionet.org/files
    """
    from functools import partial

    from finetune.grounding.one_image import map_settings
    from finetune.grounding.run import study_into
    from finetune.grounding.study import GroundingSettings, load_study, study
    from finetune.grounding.terminal import show_grounding
    from interp.feature.study import parse_feature
    from interp.saes.locate import locate_saes

    if out is None and (include_examples or resume):
        raise InputError(f"--{'resume' if resume else 'include-examples'} is of a folder. Give one with --out.")
    settings = GroundingSettings(map_settings(maps, fill, layers, heads), limit, any_answer, seed=seed)
    chosen = parse_feature(feature) if feature is not None else None
    load = partial(
        load_study,
        adapter,
        questions,
        model or (str(WORLD / "planted") if adapter is None else None),
        images,
        split,
        settings,
        chosen,
        locate_saes(saes, width, l0, {chosen[0]}) if chosen is not None else {},
        device,
        dtype,
        revision,
        style_changes(image_first, system, answer_instruction, normalize),
    )
    if out is None:
        loaded = load()
        found: GroundingStudy | None = study(loaded.vlm, loaded.adapted, loaded.questions, settings, loaded.feature)
    else:
        found = study_into(out, load, settings, include_examples, resume)
    if json and out is not None:
        typer.echo((out / "grounding.json").read_text(encoding="utf-8"), nl=False)
    elif json and found is not None:
        typer.echo(found.to_json(), nl=False)
    elif found is not None:
        show_grounding(found, out)

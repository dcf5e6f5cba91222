"""The `finetune grounding` command."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from finetune.cli.options import BASE_DTYPE, BASE_MODEL, RECORDED_STYLE
from finetune.grounding.settings import MAPS, GroundingSettings, map_settings
from interp.cli.dataclass_options import with_options
from interp.cli.options import Json, Resume, Verbose
from interp.model.spec import ModelSpec
from interp.questions.spec import DataSpec
from interp.runtime.errors import InputError
from interp.runtime.options import option
from interp.saes.spec import SaeSpec

if TYPE_CHECKING:
    from finetune.grounding.study import GroundingStudy


@with_options(
    without=("split", "data.limit", "image_cache"),
    test_split=option("test", "Split of the questions to study.", flags=("--split",)),
    model=BASE_MODEL,
    dtype=BASE_DTYPE,
    **RECORDED_STYLE,
)
def grounding_command(
    adapter: Annotated[
        Path | None,
        typer.Argument(help="Folder or hub id of a saved adapter to compare with its base.", show_default=False),
    ] = None,
    maps: Annotated[
        str | None,
        typer.Option(help=f"Maps, separated by commas: {', '.join(MAPS)}.", show_default="all"),
    ] = None,
    fill: Annotated[
        Literal["grey", "blur", "mean"],
        typer.Option(help="What replaces removed parts: mid-grey, the blurred image, or the image's mean colour."),
    ] = "grey",
    layers: Annotated[
        str | None,
        typer.Option(help="Layers of the attention map, as 15-19; the rollout ends at the last.", show_default="all"),
    ] = None,
    heads: Annotated[
        str | None, typer.Option(help="Heads of the attention map, as 0-3 or 0,2.", show_default="all")
    ] = None,
    feature: Annotated[
        str | None, typer.Option(help="Also study the map of an SAE feature, LAYER:FEATURE.", show_default="none")
    ] = None,
    *,
    saes: SaeSpec,
    model: ModelSpec,
    data: DataSpec,
    settings: GroundingSettings,
    out: Annotated[
        Path | None,
        typer.Option(
            help="New folder for grounding.json, grounding.csv (one row per question and score) and figures.",
            show_default="none",
        ),
    ] = None,
    include_examples: Annotated[
        int,
        typer.Option(
            min=0, help="Also draw the first N images with their maps and boxes into --out. These figures show images."
        ),
    ] = 0,
    resume: Resume = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Ask where the model looks, and whether the maps that claim to show it are faithful.

    Attention, rollout, gradient, integrated-gradient and occlusion maps are judged on yes/no questions with lesion
    boxes. Do they lie on the lesion? Does hiding the cells they mark change the answer? Do they agree across
    paraphrases? Every score has a control (shifted and random boxes, random orders, other images and questions), and is
    compared with the effect of filling the lesion itself. With an adapter, base and adapter answer the same questions.

    On the embedded world:

        finetune grounding --limit 30 --out artifacts/grounding

    An adapter and its base:

        finetune grounding artifacts/adapter --maps attention --layers 4-5

    As published (attention of layers 10 to 20, strongest tenth of the cells):

        finetune grounding --maps attention --layers 10-20 --top 0.1 --model google/medgemma-4b-it

    With the map of a feature:

    \b
        finetune grounding --feature 17:3818 --model google/medgemma-4b-it \\
            --saes gemma-scope-2-4b-it-res --sae-width 16k --l0 medium \\
            --questions mine.jsonl --images physionet.org/files
    """
    from functools import partial

    from finetune.grounding.run import study_into
    from finetune.grounding.study import load_study, study
    from interp.saes.feature_id import parse_feature
    from interp.views.tables.grounding import grounding_overview
    from interp.views.terminal.show import show_overview

    if out is None and (include_examples or resume):
        raise InputError(f"--{'resume' if resume else 'include-examples'} needs a folder. Give one with --out.")
    settings = replace(settings, maps=map_settings(maps, fill, layers, heads))
    chosen = parse_feature(feature) if feature is not None else None
    sae_of = saes.locate({chosen[0]}) if chosen is not None else {}
    load = partial(load_study, adapter, data, model, settings, chosen, sae_of)
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
        show_overview(grounding_overview(found))
        if out is not None:
            typer.echo(f"Wrote {out}")

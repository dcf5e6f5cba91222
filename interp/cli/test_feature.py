"""The `interp test-feature` command."""

from pathlib import Path
from typing import Annotated

import typer

from interp.cli.dataclass_options import with_options
from interp.cli.options import Json, SaeDtype, Verbose, seed_option
from interp.model.spec import ModelSpec
from interp.questions.spec import DataSpec
from interp.runtime.options import option
from interp.saes.spec import SaeSpec


@with_options(without=("test_split",), split=option("train", "Questions to use."))
def study_feature_command(
    feature: Annotated[
        str, typer.Argument(metavar="LAYER:FEATURE", help="The feature, as 17:3818.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="New folder for study.json, by_group.csv, grid.csv and figures; with --edges also circuit/.",
            show_default="none",
        ),
    ] = None,
    *,
    saes: SaeSpec,
    sae_dtype: SaeDtype = "float32",
    model: ModelSpec,
    data: DataSpec,
    grid: Annotated[
        Path | None,
        typer.Option(
            help="Register grid of your own: CSV with the columns level (0 formal to 4 casual) and frame, in which {x} "
            "stands for the finding.",
            show_default="the one shipped",
        ),
    ] = None,
    seed: Annotated[int, seed_option("Seed of the controls, the grid images and the intervals.")] = 0,
    edges: Annotated[
        bool,
        typer.Option(
            "--edges",
            help="Seek the features of other layers before and after it, which needs their SAEs too, and the tokens "
            "that its change comes from. With --out, also FOLDER/circuit for circuit-tracer's page.",
        ),
    ] = False,
    include_text: Annotated[
        bool,
        typer.Option(
            "--include-text",
            help="Show the wordings that activate the feature most and least, and write them into wordings.csv. On the "
            "terminal, those of the embedded world are always shown.",
        ),
    ] = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Study one feature: does it follow the flips, does it cause them, and what does it respond to?

    A feature of the embedded world:

        interp test-feature 4:110 --out feature/

    A feature of your own model and SAEs:

    \b
        interp test-feature 17:3818 --model google/medgemma-4b-it \\
            --saes gemma-scope-2 --questions mine.jsonl --images images/

    A feature that was picked by its score on these questions looks better than it is: pick it on other patients.
    """
    from interp.feature.register_grid import SHIPPED, read_grid
    from interp.feature.save import save_study
    from interp.feature.study import study_feature
    from interp.model.memory_jobs import searching
    from interp.model.placement import DTYPES
    from interp.saes.feature_id import parse_feature
    from interp.saes.locate import sae_of_layer
    from interp.saes.sae import load_sae
    from interp.storage.atomic import refuse_used
    from interp.views.tables.feature import study_overview
    from interp.views.tables.feature_content import wordings_table
    from interp.views.terminal.show import show_overview

    layer, index = parse_feature(feature)
    if out is not None:
        refuse_used(out)
    frames = read_grid(grid or SHIPPED)
    questions = data.load()
    located = saes.locate(None if edges else [layer])
    folder = sae_of_layer(located, layer, saes.saes)
    vlm = model.load(job=searching(1, sae_dtype=sae_dtype))
    sae = load_sae(folder, layer, vlm.d_model, vlm.device, DTYPES[sae_dtype])
    study = study_feature(vlm, sae, questions, index, frames, saes.saes, seed, folder, located if edges else None)
    if out is not None:
        save_study(study, out, include_text)
    if json:
        typer.echo(study.to_json(), nl=False)
    else:
        shown = study_overview(study)
        if include_text or study.shows_text:
            shown.tables.append(wordings_table(study.wordings, study.name))
        show_overview(shown)
        if out is not None:
            typer.echo(f"Wrote {out}")

"""The `interp test-feature` command."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from interp.cli.options import (
    L0,
    AnswerInstruction,
    Device,
    Dtype,
    ImageCache,
    ImageFirst,
    Images,
    Json,
    Limit,
    Model,
    Normalize,
    Questions,
    Revision,
    SaeDtype,
    Saes,
    System,
    Verbose,
    Width,
    style_changes,
)
from interp.paths import WORLD


def study_feature_command(
    feature: Annotated[
        str, typer.Argument(metavar="LAYER:FEATURE", help="The feature, as 17:3818.", show_default=False)
    ],
    model: Model = str(WORLD / "planted"),
    saes: Saes = str(WORLD / "saes"),
    width: Width = None,
    l0: L0 = None,
    questions: Questions = WORLD / "questions.jsonl",
    images: Images = None,
    split: Annotated[Literal["train", "test", "all"], typer.Option(help="Questions to use.")] = "train",
    grid: Annotated[
        Path | None,
        typer.Option(
            help="Your own register grid: CSV with level (0 formal to 4 casual) and frame, {x} for the finding.",
            show_default="the one shipped",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="New folder for study.json, by_group.csv, grid.csv and figures.", show_default="none"),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    limit: Limit = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of controls, grid images and intervals.")] = 0,
    revision: Revision = None,
    image_first: ImageFirst = None,
    system: System = None,
    answer_instruction: AnswerInstruction = None,
    normalize: Normalize = None,
    image_cache: ImageCache = None,
    sae_dtype: SaeDtype = "float32",
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Study one feature: does it follow the flips, does it cause them, and what does it respond to?

    A feature of the embedded world:

        interp test-feature 4:110 --out feature/

    A feature of your own model and SAEs:

    \b
        interp test-feature 17:3818 --model google/medgemma-4b-it \\
            --saes gemma-scope-2-4b-it-res --l0 medium --questions mine.jsonl

    A feature picked by its score on the same questions looks better than it is: pick it on other patients.
    """
    from interp.feature.register_grid import SHIPPED, read_grid
    from interp.feature.save import save_study
    from interp.feature.study import folder_of, parse_feature, study_feature
    from interp.model.load import DTYPES, load_vlm
    from interp.model.prompts import DEFAULT_STYLE
    from interp.questions.files import load_questions
    from interp.saes.locate import locate_saes
    from interp.saes.sae import load_sae
    from interp.storage.atomic import refuse_used
    from interp.views.tables.feature import study_overview
    from interp.views.terminal.show import show_overview

    layer, index = parse_feature(feature)
    if out is not None:
        refuse_used(out)
    frames = read_grid(grid or SHIPPED)
    asked = load_questions(questions, images, split)[:limit]
    folder = folder_of(locate_saes(saes, width, l0, [layer]), layer, saes)
    style = DEFAULT_STYLE._replace(**style_changes(image_first, system, answer_instruction, normalize))
    vlm = load_vlm(model, device, dtype, revision, style, image_cache)
    sae = load_sae(folder, layer, vlm.d_model, vlm.device, DTYPES[sae_dtype])
    study = study_feature(vlm, sae, asked, index, frames, saes, seed)
    if out is not None:
        save_study(study, out)
    if json:
        typer.echo(study.to_json(), nl=False)
    else:
        show_overview(study_overview(study))
        if out is not None:
            typer.echo(f"Wrote {out}")

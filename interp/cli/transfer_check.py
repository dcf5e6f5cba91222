"""The `interp transfer-check` command."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from interp.cli.options import (
    L0,
    Device,
    Dtype,
    Images,
    Json,
    Model,
    Questions,
    Revision,
    SaeDtype,
    Saes,
    Verbose,
    Width,
)
from interp.paths import WORLD

PROMPTS = Path(__file__).parents[1] / "screening" / "transfer_prompts"


def transfer_check_command(
    model: Model = str(WORLD / "planted"),
    saes: Saes = str(WORLD / "saes"),
    width: Width = None,
    l0: L0 = None,
    reference: Annotated[
        str | None,
        typer.Option(
            help="Model that the SAEs were trained on, to measure the drift of the features from it.",
            show_default="none",
        ),
    ] = None,
    questions: Questions = WORLD / "questions.jsonl",
    images: Images = None,
    split: Annotated[Literal["train", "test", "all"], typer.Option(help="Questions to use.")] = "all",
    medical: Annotated[
        Path, typer.Option(help="Text file of medical prompts, one a line.", show_default="100 shipped")
    ] = PROMPTS / "medical.txt",
    general: Annotated[
        Path, typer.Option(help="Text file of general prompts, one a line.", show_default="100 shipped")
    ] = PROMPTS / "general.txt",
    limit: Annotated[int, typer.Option(min=2, help="Prompts of each kind.")] = 100,
    layers: Annotated[str, typer.Option(help="Layers to check: all, 15-19 or 9,17,22.")] = "all",
    out: Annotated[
        Path | None, typer.Option(help="Also write the result to this JSON file.", show_default="none")
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the intervals.")] = 0,
    revision: Revision = None,
    sae_dtype: SaeDtype = "float32",
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Check that SAEs trained on one model describe another: R² against 0.95 by layer, on questions and on plain text.

    Of the embedded world:

        interp transfer-check

    Of Gemma's SAEs on MedGemma, with the drift of the features between the two:

    \b
        interp transfer-check --model google/medgemma-4b-it \\
            --reference google/gemma-3-4b-it \\
            --saes gemma-scope-2-4b-it-res-all --questions mine.jsonl
    """
    from interp.model.load import DTYPES, load_vlm
    from interp.questions.files import load_questions
    from interp.saes.locate import locate_saes
    from interp.schemas.layer_list import listed_layers, parse_layers
    from interp.screening.transfer import question_prompts, text_prompts, transfer_check
    from interp.storage.atomic import refuse_used, write_text
    from interp.views.tables.transfer import transfer_overview
    from interp.views.terminal.show import show_overview

    if out is not None:
        refuse_used(out)
    asked = load_questions(questions, images, split)
    kinds = {
        "questions": question_prompts(asked, limit),
        "medical": text_prompts(medical, limit),
        "general": text_prompts(general, limit),
    }
    sae_of = locate_saes(saes, width, l0, listed_layers(layers))
    vlm = load_vlm(model, device, dtype, revision)
    chosen = parse_layers(layers, list(sae_of), vlm.n_layers)
    trained_on = None if reference is None else load_vlm(reference, device, dtype)
    result = transfer_check(vlm, sae_of, kinds, chosen, trained_on, DTYPES[sae_dtype], seed)
    if out is not None:
        write_text(out, result.to_json())
    if json:
        typer.echo(result.to_json(), nl=False)
    else:
        show_overview(transfer_overview(result))

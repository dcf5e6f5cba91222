"""The `interp transfer-check` command."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from interp.cli.dataclass_options import with_options
from interp.cli.options import Json, SaeDtype, Verbose, seed_option
from interp.model.spec import ModelSpec
from interp.questions.spec import DataSpec
from interp.runtime.options import option
from interp.saes.spec import SaeSpec

PROMPTS = Path(__file__).parents[1] / "screening" / "transfer_prompts"
UNUSED = (
    "image_cache",
    "image_first",
    "system",
    "answer_instruction",
    "normalize",
    "normal_form",
    "test_split",
    "data.limit",
)
"""Options of models and questions that make no difference to the fit of the SAEs, or are declared below."""


@with_options(without=UNUSED, split=option("all", "Questions to use."))
def transfer_check_command(
    *,
    saes: SaeSpec,
    sae_dtype: SaeDtype = "float32",
    model: ModelSpec,
    reference: Annotated[
        str | None,
        typer.Option(
            help="Model that the SAEs were trained on; measures how far the features drift from it.",
            show_default="none",
        ),
    ] = None,
    data: DataSpec,
    medical: Annotated[
        Path, typer.Option(help="Text file of medical prompts, one per line.", show_default="100 shipped")
    ] = PROMPTS / "medical.txt",
    general: Annotated[
        Path, typer.Option(help="Text file of general prompts, one per line.", show_default="100 shipped")
    ] = PROMPTS / "general.txt",
    limit: Annotated[int, typer.Option(min=2, help="Number of prompts of each kind.")] = 100,
    layers: Annotated[str, typer.Option(help="Layers to check: all, 15-19 or 9,17,22.")] = "all",
    out: Annotated[
        Path | None, typer.Option(help="Also write the result to this JSON file.", show_default="none")
    ] = None,
    seed: Annotated[int, seed_option("Seed of the intervals.")] = 0,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Check whether SAEs trained on one model fit another: R² against 0.95 by layer, on questions and on plain text.

    On the embedded world:

        interp transfer-check

    Gemma's SAEs on MedGemma, with the drift of the features between the two models:

    \b
        interp transfer-check --model google/medgemma-4b-it \\
            --reference google/gemma-3-4b-it \\
            --saes gemma-scope-2-4b-it-res-all \\
            --questions mine.jsonl --images images/
    """
    from interp.model.memory_jobs import measuring
    from interp.model.placement import DTYPES
    from interp.schemas.layer_list import listed_layers, parse_layers
    from interp.screening.transfer import question_prompts, text_prompts, transfer_check
    from interp.storage.atomic import refuse_used, write_text
    from interp.views.tables.transfer import transfer_overview
    from interp.views.terminal.show import show_overview

    if out is not None:
        refuse_used(out)
    kinds = {
        "questions": question_prompts(data.load(), limit),
        "medical": text_prompts(medical, limit),
        "general": text_prompts(general, limit),
    }
    sae_of = saes.locate(listed_layers(layers))
    job = measuring(answers=False, captured=len(sae_of), sae=True)
    vlm = model.load(job=job)
    chosen = parse_layers(layers, list(sae_of), vlm.n_layers)
    trained_on = None if reference is None else replace(model, model=reference, revision=None).load(job=job)
    result = transfer_check(vlm, sae_of, kinds, chosen, trained_on, DTYPES[sae_dtype], seed)
    if out is not None:
        write_text(out, result.to_json())
    if json:
        typer.echo(result.to_json(), nl=False)
    else:
        show_overview(transfer_overview(result))

"""The `finetune evaluate` command."""

from json import loads
from pathlib import Path
from typing import Annotated, Literal

import typer

from finetune.cli.options import BaseModel, Device, Dtype, Limit, SplitName
from finetune.lora.settings import NEW_TOKENS, TOLERANCE
from interp.cli.options import (
    L0,
    AnswerInstruction,
    ImageCache,
    ImageFirst,
    Images,
    Json,
    Normalize,
    Questions,
    Revision,
    Saes,
    System,
    Verbose,
    Width,
    style_changes,
)
from interp.paths import WORLD

FAILED_VERDICT = 4
"""Exit code where a verdict is as bad as --fail-on says."""


def evaluate_command(
    adapters: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders of saved adapters, each an arm; none is needed with --clamp.", show_default=False),
    ] = None,
    clamp: Annotated[
        list[str] | None,
        typer.Option(
            help="An arm with SAE features of the base held at zero, LAYER:FEATURE with commas, or at another value: "
            "17:3818=12.5, 17:3818=mean (over the questions). May be given several times.",
            show_default="none",
        ),
    ] = None,
    clamp_at: Annotated[
        Literal["final", "all"],
        typer.Option(help="Clamp at the final prompt token, or at all text tokens but the first."),
    ] = "final",
    saes: Saes = str(WORLD / "saes"),
    width: Width = None,
    l0: L0 = None,
    model: BaseModel = None,
    questions: Questions = WORLD / "questions.jsonl",
    images: Images = None,
    split: Annotated[SplitName, typer.Option(help="Questions to evaluate on.")] = "test",
    tolerance: Annotated[
        float,
        typer.Option(
            min=0,
            max=100,
            help="Loss of accuracy or of looking that the verdict still calls kept, in percentage points.",
        ),
    ] = 100 * TOLERANCE,
    new_tokens: Annotated[
        int, typer.Option(min=0, help="Tokens generated of each answer; 0 for first-token measures alone.")
    ] = NEW_TOKENS,
    fail_on: Annotated[
        Literal["less-grounded", "not-improved", "worse"] | None,
        typer.Option(
            help="Exit with 4 if the verdict on an arm is this or worse, or cannot be given.", show_default="never"
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Also write the result to this JSON file.", show_default="none")
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(
            help="Also draw changes (FILE), reliability and quadrants (FILE_reliability, FILE_quadrants), each as "
            "PNG and SVG with its numbers as CSV.",
            metavar="FILE.png",
            show_default="none",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of bootstrap, permutations, noise and swapped images.")] = 0,
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
    """Compare saved adapters and clamps with their base: consistent, accurate, and still looking at the image?

    Flips, margins, accuracy, calibration, answers in words, reliance on the image and the four quadrants, side by side,
    each with a 95% interval over patients and a paired test; phrasings that training never showed are listed apart.
    Adapters that differ only in the seed of their training are pooled. The verdict is improved, improved but less
    grounded, not improved or worse; "kept" means that the interval allows no loss beyond --tolerance.

    One adapter:

        finetune evaluate artifacts/adapter --out artifacts/evaluation.json

    Several side by side, and a clamp:

        finetune evaluate targeted-0 targeted-1 all-layers --clamp 5:466

    A clamp alone:

    \b
        finetune evaluate --clamp 17:3818 --model google/medgemma-4b-it \\
            --saes gemma-scope-2-4b-it-res --width 16k --l0 medium \\
            --questions mine.jsonl

    Exits 0; 4 if --fail-on says so; 2 on bad input.
    """
    from interp.measurement.clamp_spec import parse_clamps
    from interp.storage.atomic import refuse_used, write_text
    from interp.views.figures.evaluation import refuse_drawn, save_evaluation_figures

    if out is not None:
        refuse_used(out)
    if figure is not None:
        refuse_drawn(figure)
    from finetune.evaluation.run import evaluate_saved
    from finetune.evaluation.terminal import show_evaluation
    from finetune.evaluation.verdict import no_better_than
    from interp.saes.locate import locate_saes

    clamps = [parse_clamps(text) for text in clamp or []]
    layers = {spec.layer for specs in clamps for spec in specs}
    evaluation = evaluate_saved(
        adapters or [],
        questions,
        model or (None if adapters else str(WORLD / "planted")),
        images,
        split,
        device,
        dtype,
        limit,
        seed,
        revision,
        style_changes(image_first, system, answer_instruction, normalize),
        clamps,
        locate_saes(saes, width, l0, layers) if clamps else {},
        clamp_at,
        tolerance / 100,
        new_tokens,
        image_cache,
    )
    if out is not None:
        write_text(out, evaluation.to_json())
    if figure is not None:
        save_evaluation_figures(loads(evaluation.to_json()), figure)
    if json:
        typer.echo(evaluation.to_json(), nl=False)
    else:
        show_evaluation(evaluation)
    if fail_on is not None and any(no_better_than(evaluation.verdicts[arm], fail_on) for arm in evaluation.shown):
        raise typer.Exit(FAILED_VERDICT)

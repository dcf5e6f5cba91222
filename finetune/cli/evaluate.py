"""The `finetune evaluate` command."""

from json import loads
from pathlib import Path
from typing import Annotated, Literal

import typer

from finetune.cli.options import BASE_DTYPE, BASE_MODEL, RECORDED_STYLE
from finetune.evaluation.settings import ClampIn, EvaluationSettings
from interp.cli.dataclass_options import with_options
from interp.cli.options import Full, Json, Verbose
from interp.model.spec import ModelSpec
from interp.questions.spec import DataSpec
from interp.runtime.options import option
from interp.saes.spec import SaeSpec
from interp.schemas.items_kept import ItemsKept

FAILED_VERDICT = 4
"""Exit code if a verdict is as bad as --fail-on says."""


@with_options(
    without=("split",),
    test_split=option("test", "Split to evaluate on.", flags=("--split",)),
    model=BASE_MODEL,
    dtype=BASE_DTYPE,
    **RECORDED_STYLE,
)
def evaluate_command(
    adapters: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Saved adapters, an arm each: folders or hub ids (owner/name), or whole models beside their base. "
            "Optional with --clamp.",
            show_default=False,
        ),
    ] = None,
    clamp: Annotated[
        list[str] | None,
        typer.Option(
            help="An arm in which SAE features are held at zero, LAYER:FEATURE separated by commas, or at another "
            "value: 17:3818=12.5, 17:3818=mean (over the questions). May be given several times.",
            show_default="none",
        ),
    ] = None,
    clamp_at: Annotated[
        Literal["final", "all"],
        typer.Option(help="Clamp at the final prompt token, or at all text tokens except the first."),
    ] = "final",
    clamp_in: Annotated[
        ClampIn,
        typer.Option(help="Clamp in the base, in each adapter and whole model that is given, or in both; an arm each."),
    ] = "base",
    features_from: Annotated[
        Path | None,
        typer.Option(
            help="Also try how well the activations of the features in this layers.json (file or folder) foretell "
            "flips; --saes names their SAEs.",
            show_default="none",
        ),
    ] = None,
    *,
    saes: SaeSpec,
    model: ModelSpec,
    data: DataSpec,
    settings: EvaluationSettings,
    fail_on: Annotated[
        Literal["less-grounded", "not-improved", "worse"] | None,
        typer.Option(
            help="Exit with code 4 if the verdict on an arm is this or worse, or cannot be given.", show_default="never"
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Also write the result to this JSON file.", show_default="none")
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(
            help="Also draw the changes (FILE), the reliability and the quadrants (FILE_reliability, FILE_quadrants), "
            "each as PNG and SVG with its numbers as CSV.",
            metavar="FILE.png",
            show_default="none",
        ),
    ] = None,
    items: ItemsKept,
    full: Full = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Compare saved adapters and clamps with their base: consistent, accurate, and still looking at the image?

    Flips, margins, accuracy, calibration, answers in words, reliance on the image and the four quadrants are compared,
    each with a 95% interval over patients and a paired test. Wordings not seen in training are listed
    separately. Adapters that differ only in the seed of their training are pooled. The verdict is improved, improved
    but less grounded, not improved, or worse. Accuracy and reliance on the image are "kept" if the interval excludes a
    loss of more than --tolerance. The result also says which flips could be foretold, and what withholding doubtful
    answers gains (--full and `interp report` show it).

    One adapter:

        finetune evaluate artifacts/adapter --out artifacts/evaluation.json

    Several adapters and a clamp:

        finetune evaluate targeted-0 targeted-1 all-layers --clamp 5:466

    Does the adapter still need the feature? The clamp in the base and in the adapter:

        finetune evaluate artifacts/adapter --clamp 5:466 --clamp-in both

    A clamp alone:

    \b
        finetune evaluate --clamp 17:3818 --model google/medgemma-4b-it \\
            --saes gemma-scope-2 --questions mine.jsonl --images images/

    Exits with 0; with 4 if --fail-on applies; with 2 on bad input.
    """
    from interp.measurement.clamp_spec import parse_clamps
    from interp.runtime.errors import InputError
    from interp.schemas.items import evaluation_items_path
    from interp.storage.atomic import refuse_used
    from interp.views.figures.evaluation import refuse_drawn, save_evaluation_figures
    from interp.views.tables.deciding import evaluation_deciding
    from interp.views.tables.evaluation import evaluation_overview
    from interp.views.terminal.screen import show_screen

    if out is not None:
        refuse_used(out)
    elif items.keep:
        raise InputError("--keep-items writes beside the result. Give --out too.")
    if figure is not None:
        refuse_drawn(figure)
    from finetune.evaluation.feature_activations import found_features
    from finetune.evaluation.run import evaluate_saved
    from finetune.evaluation.saved import save_evaluation
    from finetune.evaluation.verdict import no_better_than

    if out is not None and items.keep:
        refuse_used(evaluation_items_path(out))
    clamps = [parse_clamps(text) for text in clamp or []]
    features = [] if features_from is None else found_features(features_from, data.test_split)
    layers = {spec.layer for specs in clamps for spec in specs} | {layer for layer, _ in features}
    evaluation = evaluate_saved(
        adapters or [],
        data,
        model,
        settings,
        clamps=clamps,
        sae_of=saes.locate(layers) if layers else {},
        clamp_at=clamp_at,
        clamp_in=clamp_in,
        features=features,
    )
    if out is not None:
        save_evaluation(evaluation, out, items)
    if figure is not None:
        save_evaluation_figures(loads(evaluation.to_json()), figure)
    if json:
        typer.echo(evaluation.to_json(), nl=False)
    else:
        files = [] if out is None else [out, *([evaluation_items_path(out)] if items.keep else [])]
        following = "" if out is None else f"interp report {out.parent}"
        show_screen(evaluation_overview(evaluation, full), evaluation_deciding(evaluation), files, following, full)
    if fail_on is not None and any(no_better_than(evaluation.verdicts[arm].label, fail_on) for arm in evaluation.shown):
        raise typer.Exit(FAILED_VERDICT)

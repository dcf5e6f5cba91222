"""The `finetune benchmark` command."""

from pathlib import Path
from typing import Annotated

import typer

from finetune.evaluation.settings import EvaluationSettings
from interp.cli.dataclass_options import with_options
from interp.cli.options import Full, Json, Verbose
from interp.model.spec import ModelSpec
from interp.questions.spec import DataSpec
from interp.runtime.options import option


@with_options(
    without=("split", "spec.model", "image_cache"),
    test_split=option("test", "Split to measure on.", flags=("--split",)),
)
def benchmark_command(
    models: Annotated[
        list[str],
        typer.Argument(
            help="Vision-language models of any family that transformers loads as AutoModelForImageTextToText, folders "
            "or hub ids. The others are compared with the first.",
            show_default=False,
        ),
    ],
    batch_size: Annotated[int, typer.Option(min=1, help="Number of prompts in a batch.")] = 8,
    *,
    spec: ModelSpec,
    data: DataSpec,
    settings: EvaluationSettings,
    out: Annotated[
        Path | None, typer.Option(help="Also write the result to this JSON file.", show_default="none")
    ] = None,
    full: Full = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Measure any vision-language model: does it flip, is it right, and does it look at the image?

    The measures are those of `finetune evaluate`: flips, accuracy, calibration, answers in words, blank and swapped
    images, the four quadrants, and which flips can be foretold. They are computed by plain batched generation, so that
    any family of models can be measured, slowly. For Gemma 3, `finetune evaluate` gives the same numbers faster.

    A model alone:

        finetune benchmark llava-hf/llava-1.5-7b-hf --questions mine.jsonl --images images/

    A tuned model beside its base:

    \b
        finetune benchmark Qwen/Qwen2-VL-2B-Instruct tuned-model \\
            --questions mine.jsonl --images images/ --out benchmark.json
    """
    from interp.storage.atomic import refuse_used, write_text
    from interp.views.tables.deciding import evaluation_deciding
    from interp.views.tables.evaluation import evaluation_overview
    from interp.views.tables.measured import DECIDING, measured_table
    from interp.views.terminal.screen import show_screen

    if out is not None:
        refuse_used(out)
    from finetune.evaluation.benchmark import benchmark

    found = benchmark(models, data, spec, settings, batch_size)
    if out is not None:
        write_text(out, found.to_json())
    if json:
        typer.echo(found.to_json(), nl=False)
    else:
        deciding = evaluation_deciding(found) if found.shown else measured_table(found, DECIDING)
        show_screen(evaluation_overview(found, full), deciding, [] if out is None else [out], full=full)

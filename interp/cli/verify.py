"""The `interp verify` command."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from interp.cli.dataclass_options import with_options
from interp.cli.options import Json, Verbose, seed_option
from interp.model.spec import ModelSpec
from interp.questions.spec import DataSpec
from interp.runtime.errors import EXIT_FOUND
from interp.runtime.options import option
from interp.saes.spec import SaeSpec

RECORDED = (
    "revision",
    "dtype",
    "load_in",
    "image_first",
    "system",
    "answer_instruction",
    "normalize",
    "normal_form",
    "split",
    "test_split",
)
"""What the run recorded, so that no option says it."""


@with_options(without=RECORDED, limit=option(None, "The --limit of the run.", min=1, shown="all"))
def verify_command(
    run: Annotated[Path, typer.Argument(help="Folder that find-features wrote.")] = Path("artifacts"),
    *,
    saes: SaeSpec,
    model: ModelSpec,
    data: DataSpec,
    sample: Annotated[int, typer.Option(min=1, help="Number of questions that are measured again.")] = 50,
    seed: Annotated[int, seed_option("Seed of that sample.")] = 0,
    full: Annotated[
        bool, typer.Option("--full", help="Repeat the whole search, and compare every number of layers.json.")
    ] = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Check that a run comes from this model, these SAEs and these questions.

    Files are compared with their checksums; model, SAEs and questions with
    the digests that the run recorded. A sample of pairs is measured again:

        interp verify artifacts/

    Flip rates, layers, ranges and recoveries depend on all questions: --full
    repeats the search.

    Exits with 0 if every check holds, 4 if one does not, 2 on bad input.
    """
    from interp.model.memory_jobs import measuring, searching
    from interp.model.prompts import PromptStyle
    from interp.schemas.layers import read_layers
    from interp.search.run_folder import LAYERS
    from interp.search.verify import SavedRun, verify_run
    from interp.storage.json_files import json_ready, json_text
    from interp.views.terminal.checks import show_checks

    artifact = read_layers(run / LAYERS)
    split: Any = artifact.data.split
    dtype: Any = artifact.model.dtype
    questions = replace(data, split=split).load()
    sae_of = saes.locate(sorted(artifact.saes))
    recorded = replace(model, dtype=dtype, load_in=artifact.model.load_in, revision=artifact.model.revision)
    style = PromptStyle(**artifact.prompt.model_dump())
    vlm = recorded.load(style, searching(len(sae_of)) if full else measuring(answers=False, sae=True))
    checks = verify_run(SavedRun(run, artifact, vlm, sae_of, questions), sample, seed, full)
    if json:
        typer.echo(json_text(json_ready(checks)), nl=False)
    else:
        left = "" if full else "Rates, layers and recoveries depend on all questions: --full computes them again."
        show_checks(checks, left)
    if not all(check.holds for check in checks):
        raise typer.Exit(EXIT_FOUND)

"""The `interp verify` command."""

from pathlib import Path
from typing import Annotated, Any

import typer

from interp.cli.options import L0, Device, ImageCache, Images, Json, Limit, Model, Questions, Saes, Verbose, Width
from interp.paths import WORLD
from interp.runtime.errors import EXIT_FOUND


def verify_command(
    run: Annotated[Path, typer.Argument(help="Folder that find-features wrote.")] = Path("artifacts"),
    model: Model = str(WORLD / "planted"),
    saes: Saes = str(WORLD / "saes"),
    width: Width = None,
    l0: L0 = None,
    questions: Questions = WORLD / "questions.jsonl",
    images: Images = None,
    limit: Limit = None,
    sample: Annotated[int, typer.Option(min=1, help="Questions that are measured again.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Seed of that sample.")] = 0,
    full: Annotated[
        bool, typer.Option("--full", help="Make the whole search again, and compare every number of layers.json.")
    ] = False,
    device: Device = "auto",
    image_cache: ImageCache = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Check that a run is of this model, these SAEs and these questions.

    Files are compared with their checksums, model, SAEs and questions with
    the digests that the run recorded, and a sample of pairs is measured again:

        interp verify artifacts/

    Flip rates, layers, ranges and recoveries need all questions: --full makes
    the search again.

    Exits 0 if every check holds, 4 if one does not, 2 on bad input.
    """
    from interp.model.load import load_vlm
    from interp.model.prompts import PromptStyle
    from interp.questions.files import load_questions
    from interp.saes.locate import locate_saes
    from interp.schemas.layers import read_layers
    from interp.search.run_folder import LAYERS
    from interp.search.verify import SavedRun, verify_run
    from interp.storage.json_files import json_ready, json_text
    from interp.views.terminal.checks import show_checks

    artifact = read_layers(run / LAYERS)
    split: Any = artifact.data.split
    asked = load_questions(questions, images, split)[:limit]
    sae_of = locate_saes(saes, width, l0, sorted(artifact.saes))
    style = PromptStyle(**artifact.prompt.model_dump())
    vlm = load_vlm(model, device, artifact.model.dtype, artifact.model.revision, style, image_cache)
    checks = verify_run(SavedRun(run, artifact, vlm, sae_of, asked), sample, seed, full)
    if json:
        typer.echo(json_text(json_ready(checks)), nl=False)
    else:
        left = "" if full else "Rates, layers and recoveries need all questions: --full computes them again."
        show_checks(checks, left)
    if not all(check.holds for check in checks):
        raise typer.Exit(EXIT_FOUND)

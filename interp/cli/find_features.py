"""The `interp find-features` command."""

from pathlib import Path
from typing import Annotated

import typer

from interp.cli.dataclass_options import with_options
from interp.cli.grouped_help import ADVANCED
from interp.cli.options import Full, Json, Resume, Verbose
from interp.model.spec import ModelSpec
from interp.questions.spec import DataSpec
from interp.runtime.distributed import is_main
from interp.runtime.errors import EXIT_NO_GATE
from interp.runtime.gpu_start import begin_gpu
from interp.runtime.options import option
from interp.saes.spec import SaeSpec
from interp.schemas.items_kept import ItemsKept
from interp.search.settings import FindSettings


@with_options(without=("test_split",), split=option("train", "Questions to use; keep test for the evaluation."))
def find_features_command(
    *,
    layers: Annotated[str, typer.Option(help="Layers to profile: all, 15-19 or 9,17,22.")] = "all",
    out: Annotated[Path, typer.Option(help="Folder for layers.json, features and figures.")] = Path("artifacts"),
    saes: SaeSpec,
    model: ModelSpec,
    data: DataSpec,
    settings: FindSettings,
    batch_tokens: Annotated[
        int, typer.Option(min=1, help="Prompt tokens per forward pass [thousands].", rich_help_panel=ADVANCED)
    ] = 16,
    items: ItemsKept,
    resume: Resume = False,
    full: Full = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Screen every SAE feature, profile the layers and write `layers.json`.

    Without options it studies the embedded world:

        interp find-features

    On a model, SAEs and questions of your own:

    \b
        interp find-features --model google/medgemma-4b-it \\
            --saes gemma-scope-2 --questions mine.jsonl --images images/

    Exits with 0 if layers were found, 3 if not or if the flips are too few (layers.json says why; with --limit, raise
    it), 2 on bad input.
    """
    begin_gpu(model.device)
    from interp.model.memory_jobs import searching
    from interp.schemas.layer_list import listed_layers, parse_layers
    from interp.schemas.layers import TRAINABLE, read_layers
    from interp.search.run_folder import LAYERS, find_into
    from interp.search.task import Search
    from interp.views.terminal.search import show_search

    def load() -> Search:
        questions = data.load()
        sae_of = saes.locate(listed_layers(layers))
        job = searching(len(sae_of), sae_dtype=settings.sae_dtype, batch_tokens=1024 * batch_tokens)
        vlm = model.load(job=job, images=[question.image for question in questions])
        chosen = parse_layers(layers, list(sae_of), vlm.n_layers)
        return Search(vlm, sae_of, questions, chosen, settings, data.split, 1024 * batch_tokens, model.max_memory)

    result = find_into(out, load, resume, items)
    # Launchers stop all processes when one ends with another code than 0, and this one still has to print.
    if not is_main():
        return
    if json:
        typer.echo((out / LAYERS).read_text(encoding="utf-8"), nl=False)
    elif result is not None:
        show_search(result.artifact, out / LAYERS, given=_given(model, data), full=full)
    found = read_layers(out / LAYERS) if result is None else result.artifact
    if found.verdict not in TRAINABLE:
        raise typer.Exit(EXIT_NO_GATE)


def _given(model: ModelSpec, data: DataSpec) -> dict[str, object]:
    """The options that the next command needs too: model and questions, unless they are the embedded world's."""
    given: dict[str, object] = {}
    if model.model is not None:
        given |= {"--model": model.model, "--revision": model.revision}
    if data.questions != DataSpec.questions:
        given |= {"--questions": str(data.questions), "--images": data.images}
    return given

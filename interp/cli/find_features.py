"""The `interp find-features` command."""

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
    MaxMemory,
    Model,
    Normalize,
    Questions,
    Resume,
    Revision,
    SaeDtype,
    Saes,
    System,
    Verbose,
    Width,
    style_changes,
)
from interp.paths import WORLD
from interp.runtime.distributed import is_main
from interp.runtime.errors import EXIT_NO_GATE


def find_features_command(
    model: Model = str(WORLD / "planted"),
    saes: Saes = str(WORLD / "saes"),
    width: Width = None,
    l0: L0 = None,
    questions: Questions = WORLD / "questions.jsonl",
    images: Images = None,
    split: Annotated[
        Literal["train", "test", "all"], typer.Option(help="Questions to use; keep test for evaluation.")
    ] = "train",
    layers: Annotated[str, typer.Option(help="Layers to profile: all, 15-19 or 9,17,22.")] = "all",
    rule: Annotated[
        Literal["write", "growth", "near-peak"],
        typer.Option(
            help="Rule that takes the range: write, the layers whose own addition moves the answer; growth, where the "
            "recovery of the residual patch grows; near-peak, around the highest flip AUC (the published rule)."
        ),
    ] = "write",
    max_width: Annotated[int, typer.Option(min=1, help="Most layers in the range.")] = 5,
    out: Annotated[Path, typer.Option(help="Folder for layers.json, features and figures.")] = Path("artifacts"),
    device: Device = "auto",
    dtype: Dtype = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Prompt tokens in a forward pass [thousands].")] = 16,
    limit: Limit = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of halves, controls and intervals.")] = 0,
    revision: Revision = None,
    image_first: ImageFirst = None,
    system: System = None,
    answer_instruction: AnswerInstruction = None,
    normalize: Normalize = None,
    image_cache: ImageCache = None,
    sae_dtype: SaeDtype = "float32",
    max_memory: MaxMemory = None,
    resume: Resume = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Screen every SAE feature, profile the layers and write `layers.json`.

    Without options it studies the embedded world:

        interp find-features

    On a model, SAEs and questions of your own:

    \b
        interp find-features --model google/medgemma-4b-it \\
            --saes gemma-scope-2-4b-it-res-all --questions mine.jsonl

    Exits 0 if a gate was found, 3 if not (layers.json says why), 2 on bad input.
    """
    from interp.model.load import limit_image_tokens, load_vlm
    from interp.model.prompts import DEFAULT_STYLE
    from interp.questions.files import load_questions
    from interp.runtime.memory import limit_memory, memory_left
    from interp.saes.locate import locate_saes
    from interp.schemas.layer_list import listed_layers, parse_layers
    from interp.schemas.layers import read_layers
    from interp.search.run_folder import LAYERS, find_into
    from interp.search.settings import FindSettings
    from interp.search.task import Search
    from interp.views.terminal.search import show_search

    settings = FindSettings(rule=rule, max_layers=max_width, sae_dtype=sae_dtype, seed=seed)

    def load() -> Search:
        asked = load_questions(questions, images, split)[:limit]
        sae_of = locate_saes(saes, width, l0, listed_layers(layers))
        style = DEFAULT_STYLE._replace(**style_changes(image_first, system, answer_instruction, normalize))
        vlm = load_vlm(model, device, dtype, revision, style, image_cache)
        if max_memory is not None:
            limit_memory(vlm.device, max_memory)
            limit_image_tokens(vlm, memory_left(vlm.device, max_memory).host // 4)
        chosen = parse_layers(layers, list(sae_of), vlm.n_layers)
        return Search(vlm, sae_of, asked, chosen, settings, split, 1024 * batch_size, max_memory)

    result = find_into(out, load, resume)
    if is_main():
        if json:
            typer.echo((out / LAYERS).read_text(encoding="utf-8"), nl=False)
        elif result is not None:
            own: dict[str, object] = (
                {"--model": model, "--revision": revision} if model != str(WORLD / "planted") else {}
            )
            if questions != WORLD / "questions.jsonl":
                own |= {"--questions": str(questions), "--images": images}
            show_search(result.artifact, out / LAYERS, given=own)
    found = read_layers(out / LAYERS) if result is None else result.artifact
    if found.verdict == "no gate found":
        raise typer.Exit(EXIT_NO_GATE)

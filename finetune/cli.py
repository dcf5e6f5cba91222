"""The `finetune` command: argument parsing only."""

import sys
from json import loads
from pathlib import Path
from typing import Annotated, Literal

import typer

from finetune.ablate.cli import ablate_command
from finetune.grounding.cli import grounding_command
from finetune.options import (
    Alpha,
    BaseModel,
    BatchSize,
    Device,
    Dtype,
    Epochs,
    LearningRate,
    Limit,
    SplitName,
    TestSplit,
    TrainSplit,
)
from finetune.ranks import Modules
from finetune.settings import NEW_TOKENS, TOLERANCE, Allocation, Grounding, TrainSettings
from finetune.trackers import TrackerName
from finetune.verify_command import verify_command
from interp.demo import EMBEDDED, WORLD
from interp.entry import HELP, PLAIN, command
from interp.errors import InputError
from interp.options import (
    L0,
    AnswerInstruction,
    ImageCache,
    ImageFirst,
    Images,
    Json,
    Normalize,
    Questions,
    Resume,
    Revision,
    Saes,
    System,
    Verbose,
    Width,
    style_changes,
)
from interp.processes import is_main, refuse_several

DEFAULTS = TrainSettings()
LAYERS = Path("artifacts/layers.json")
FAILED_VERDICT = 4
"""Exit code where a verdict is as bad as --fail-on says."""

app = typer.Typer(
    rich_markup_mode=PLAIN,
    pretty_exceptions_enable=False,
    context_settings=HELP,
)


@app.callback(invoke_without_command=True)
def train(
    context: typer.Context,
    layers_from: Annotated[
        Path | None,
        typer.Option(help="Train the layers that `interp` found.", show_default=f"{LAYERS} if present"),
    ] = None,
    layers: Annotated[
        str | None, typer.Option(help="Train these layers instead: 15-19, or 9,17, or all.", show_default="none")
    ] = None,
    model: Annotated[
        str, typer.Option(help="Gemma 3 model with images: a folder or a hub id.", show_default=EMBEDDED)
    ] = str(WORLD / "planted"),
    questions: Questions = WORLD / "questions.jsonl",
    images: Images = None,
    split: TrainSplit = "train",
    test_split: TestSplit = "test",
    out: Annotated[Path, typer.Option(help="New folder for adapter and evaluation.")] = Path("artifacts/adapter"),
    rank: Annotated[int, typer.Option(min=1, help="Rank of the update.")] = DEFAULTS.rank,
    modules: Annotated[
        Modules, typer.Option(help="Which projections of the layers: of their attention, of their MLP, or all.")
    ] = DEFAULTS.modules,
    allocation: Annotated[
        Allocation,
        typer.Option(
            help="weighted: ranks by what each layer's attention and MLP write, as --layers-from has it; as many "
            "parameters as with the same --rank everywhere."
        ),
    ] = DEFAULTS.allocation,
    alpha: Alpha = DEFAULTS.alpha,
    dropout: Annotated[float, typer.Option(min=0, max=0.99, help="Dropout on the update's input.")] = DEFAULTS.dropout,
    lr: LearningRate = DEFAULTS.lr,
    batch_size: BatchSize = DEFAULTS.batch_size,
    micro_batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Questions a forward pass.", show_default="as many as the GPU's memory holds"),
    ] = DEFAULTS.micro_batch_size,
    epochs: Epochs = DEFAULTS.epochs,
    consistency_weight: Annotated[
        float, typer.Option(min=0, help="Weight of the divergence between two wordings' answers; 0 for answers alone.")
    ] = DEFAULTS.consistency_weight,
    grounding: Annotated[
        Grounding,
        typer.Option(
            help="Hold yes/no answers to the image: blank, undecided without it; swap, less of the true answer on "
            "another patient's, of which the opposite is true."
        ),
    ] = DEFAULTS.grounding,
    grounding_weight: Annotated[
        float, typer.Option(min=0, help="Weight of the grounding term.")
    ] = DEFAULTS.grounding_weight,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = DEFAULTS.seed,
    resume: Resume = False,
    log_with: Annotated[
        TrackerName | None,
        typer.Option(
            help="Log the steps for TensorBoard or W&B too, into OUT.logs. W&B stays offline unless WANDB_MODE says "
            "otherwise.",
            show_default="none",
        ),
    ] = None,
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
    """Train a LoRA on a few layers so that rewording a question stops changing the answer, then say whether it worked.

    Each question is paired with a random paraphrase; both are taught the true answer and to answer alike. Base and
    adapter are then compared on held-out patients: flips, accuracy, and how often the answer stays when the image is
    made blank. The folder loads with plain peft.

    On the layers that interp found:

        finetune --layers-from artifacts/layers.json

    On layers of your choice:

    \b
        finetune --layers 15-19 --model google/medgemma-4b-it \\
            --questions mine.jsonl
    """
    if context.invoked_subcommand is not None:
        sources = {name: context.get_parameter_source(name) for name in context.params}
        given = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
        if given:
            raise InputError(
                f"--{given[0].replace('_', '-')} stands before {context.invoked_subcommand}, which does not see it. "
                "Put options behind the command that they are for."
            )
        return
    if layers is None and layers_from is None:
        if not LAYERS.is_file():
            raise InputError(
                f"No layers to train: there is no {LAYERS}. Run `interp find-features` first, or give --layers-from "
                "or --layers."
            )
        layers_from = LAYERS
    settings = TrainSettings(
        rank=rank,
        modules=modules,
        allocation=allocation,
        alpha=alpha,
        dropout=dropout,
        lr=lr,
        batch_size=batch_size,
        micro_batch_size=micro_batch_size,
        epochs=epochs,
        consistency_weight=consistency_weight,
        grounding=grounding,
        grounding_weight=grounding_weight,
        seed=seed,
    )
    from finetune.display import show_evaluation
    from finetune.run import train_and_evaluate

    evaluation = train_and_evaluate(
        model,
        questions,
        out,
        settings,
        layers,
        layers_from,
        images,
        split,
        test_split,
        device,
        dtype,
        limit,
        revision,
        style_changes(image_first, system, answer_instruction, normalize),
        image_cache,
        resume,
        log_with,
    )
    if not is_main():
        return
    if json:
        typer.echo((out / "evaluation.json").read_text(encoding="utf-8"), nl=False)
    elif evaluation is not None:
        show_evaluation(evaluation)
        typer.echo(f"Wrote {out}")


@app.command("evaluate", short_help="Compare adapters and clamps with their base.")
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
    from interp.clamps import parse_clamps
    from interp.figures.evaluation import refuse_drawn, save_evaluation_figures
    from interp.files import refuse_used, write_text

    if out is not None:
        refuse_used(out)
    if figure is not None:
        refuse_drawn(figure)
    from finetune.display import show_evaluation
    from finetune.run import evaluate_saved
    from finetune.verdict import as_bad
    from interp.sae_sources import locate_saes

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
    if fail_on is not None and any(as_bad(evaluation.verdicts[arm], fail_on) for arm in evaluation.shown):
        raise typer.Exit(FAILED_VERDICT)


app.command("ablate", short_help="Did the choice of the layers matter?")(ablate_command)
app.command("verify", short_help="Are the numbers of this adapter and these questions?")(verify_command)
app.command("grounding", short_help="Where does it look, and are the maps of it faithful?")(grounding_command)


@app.command("push", short_help="Publish an adapter on the hub, or show what would be.")
def push_command(
    adapter: Annotated[Path, typer.Argument(help="Folder that `finetune --out` wrote.", show_default=False)],
    repo: Annotated[str, typer.Argument(help="Model repository on the hub: owner/name.", show_default=False)],
    upload: Annotated[bool, typer.Option("--upload", help="Send it; without this it is only shown.")] = False,
    public: Annotated[bool, typer.Option("--public", help="Let everybody see it; without this it is private.")] = False,
    base_model: Annotated[
        str | None,
        typer.Option(
            help="Hub id of the base, for an adapter of a local folder. Written into what is sent only.",
            show_default="the one the adapter names",
        ),
    ] = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Show what would be published of an adapter on the Hugging Face hub, and with --upload publish it.

    Weights, configuration, card, evaluation and record are sent, nothing else. The hashes of the training texts stay
    here. The adapter's folder is not changed.

    Look first, then send:

    \b
        finetune push artifacts/adapter me/medgemma-4b-consistent
        finetune push artifacts/adapter me/medgemma-4b-consistent --upload
    """
    from finetune.push import content_of, description, send, staged
    from interp.files import json_text

    with staged(adapter, repo, public, base_model) as package:
        if not json:
            typer.echo(description(package))
        sent = send(package) if upload else None
        if json:
            typer.echo(json_text(content_of(package) | {"sent": sent}), nl=False)
        else:
            typer.echo(f"Sent: {sent}" if sent else "Nothing was sent. Add --upload to send exactly this.")


def main() -> None:
    """Entry point of `finetune`: a user's mistake is one paragraph on stderr and exit code 2."""
    with command():
        if sys.argv[1:2] and sys.argv[1] in ("evaluate", "grounding", "push"):
            refuse_several(f"finetune {sys.argv[1]}")
        app()


if __name__ == "__main__":
    main()

"""The `interp` command: argument parsing only, every command is one call into the library."""

import sys
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Literal

import typer

from interp.demo import EMBEDDED, WORLD
from interp.errors import InputError
from interp.options import AnswerInstruction, ImageCache, ImageFirst, Normalize, Revision, System, style_changes
from interp.processes import first_to, is_main, refuse_several, team_on

EXIT_INPUT, EXIT_NO_GATE, EXIT_FOUND = 2, 3, 4
MORE_ROOM = "Free memory of the GPU, or take a smaller model or fewer layers."
PROMPTS = Path(__file__).parent / "transfer_prompts"

Model = Annotated[str, typer.Option(help="Gemma 3 model with images: a folder or a hub id.", show_default=EMBEDDED)]
Saes = Annotated[
    str,
    typer.Option(
        help="SAEs of the residual stream: a folder (Gemma Scope 2's or sae-lens's), a sae-lens release "
        "(gemma-scope-2-4b-it-res-all), or a hub repository and folder (google/gemma-scope-2-4b-it:resid_post).",
        show_default=EMBEDDED,
    ),
]
Width = Annotated[
    Literal["16k", "65k", "262k", "1m"] | None,
    typer.Option(help="Of several SAEs of a layer, the one of this width.", show_default="16k from the hub"),
]
L0 = Annotated[
    Literal["small", "medium", "big"] | None,
    typer.Option(help="Of several SAEs of a layer, the one of this sparsity.", show_default="small from the hub"),
]
SaeDtype = Annotated[
    Literal["float32", "bfloat16"], typer.Option(help="Of the SAEs' matrices; bfloat16 takes half the memory.")
]
Questions = Annotated[
    Path, typer.Option(help="JSON Lines file, one question a line with its paraphrases.", show_default=EMBEDDED)
]
Images = Annotated[
    Path | None, typer.Option(help="Folder that the image paths are relative to.", show_default="that of --questions")
]
MaxMemory = Annotated[
    float | None,
    typer.Option(
        min=0.5,
        help="Memory that the run may take [GiB], on the GPU and in main memory each; what does not fit is computed "
        "again, read again or kept in a temporary file.",
        show_default="80% of what is free",
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Take the first N questions only.", show_default="all")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...; split: one model over all GPUs.")]
Dtype = Annotated[str, typer.Option(help="auto (float32 on CPU, bfloat16 on GPU), float32 or bfloat16.")]

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Find the features and layers that make a vision-language model flip when a question is reworded.",
)
demo_app = typer.Typer(no_args_is_help=True, help="The embedded world, whose gate is known.")
app.add_typer(demo_app, name="demo")


@app.command("find-features")
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
    rule: Annotated[Literal["write", "rise", "level"], typer.Option(help="How the range is taken.")] = "write",
    profile: Annotated[
        Literal["auc", "recovery", "net"] | None,
        typer.Option(help="Score that rise or level reads.", show_default="recovery for rise, auc for level"),
    ] = None,
    max_width: Annotated[int, typer.Option(min=1, help="Most layers in the range.")] = 5,
    out: Annotated[Path, typer.Option(help="Folder for layers.json, features and figures.")] = Path("artifacts"),
    device: Device = "auto",
    dtype: Dtype = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Prompt tokens in a forward pass [thousands].")] = 16,
    limit: Limit = None,
    seed: Annotated[int, typer.Option(help="Seed of halves, controls and intervals.")] = 0,
    revision: Revision = None,
    image_first: ImageFirst = None,
    system: System = None,
    answer_instruction: AnswerInstruction = None,
    normalize: Normalize = None,
    image_cache: ImageCache = None,
    sae_dtype: SaeDtype = "float32",
    max_memory: MaxMemory = None,
) -> None:
    """Screen every SAE feature, profile the layers and write `layers.json`.

    Without options it studies the embedded world:

        interp find-features

    On a model, SAEs and questions of your own:

        interp find-features --model google/medgemma-4b-it --saes gemma-scope-2-4b-it-res-all --questions mine.jsonl

    Exits 0 if a gate was found, 3 if not (layers.json says why), 2 on bad input.
    """
    from interp.display import show_result
    from interp.find import FindSettings, find_features
    from interp.layers import listed_layers, parse_layers
    from interp.lock import held
    from interp.memory import limit_memory, memory_left
    from interp.prompts import PLAIN
    from interp.questions import load_questions
    from interp.run import refuse_run, save_result
    from interp.sae_sources import locate_saes
    from interp.vlm import DTYPES, hold_images, load_vlm

    refuse_run(out)
    asked = load_questions(questions, images, split)[:limit]
    sae_of = locate_saes(saes, width, l0, listed_layers(layers))
    style = PLAIN._replace(**style_changes(image_first, system, answer_instruction, normalize))
    with held(out) if is_main() else nullcontext():
        vlm = load_vlm(model, device, dtype, revision, style, image_cache)
        if max_memory is not None:
            limit_memory(vlm.device, max_memory)
            hold_images(vlm, memory_left(vlm.device, max_memory).host // 4)
        chosen = parse_layers(layers, list(sae_of), vlm.n_layers)
        settings = FindSettings(rule=rule, profile=profile, max_width=max_width, sae_dtype=DTYPES[sae_dtype], seed=seed)
        result = find_features(vlm, sae_of, asked, chosen, settings, split, 1024 * batch_size, max_memory)
        if is_main():
            save_result(result, out)
            show_result(result, out)
    # The launcher stops all processes when one of them ends with an exit code.
    team_on(vlm.device).disband()
    if result.artifact.verdict == "no gate found":
        raise typer.Exit(EXIT_NO_GATE)


@app.command("test-feature")
def study_feature_command(
    feature: Annotated[
        str, typer.Argument(metavar="LAYER:FEATURE", help="The feature, as 17:3818.", show_default=False)
    ],
    model: Model = str(WORLD / "planted"),
    saes: Saes = str(WORLD / "saes"),
    width: Width = None,
    l0: L0 = None,
    questions: Questions = WORLD / "questions.jsonl",
    images: Images = None,
    split: Annotated[Literal["train", "test", "all"], typer.Option(help="Questions to use.")] = "train",
    grid: Annotated[
        Path | None,
        typer.Option(
            help="Your own register grid: CSV with level (0 formal to 4 casual) and frame, {x} for the finding.",
            show_default="the one shipped",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="New folder for study.json, by_group.csv, grid.csv and figures.", show_default="none"),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    limit: Limit = None,
    seed: Annotated[int, typer.Option(help="Seed of controls, grid images and intervals.")] = 0,
    revision: Revision = None,
    image_first: ImageFirst = None,
    system: System = None,
    answer_instruction: AnswerInstruction = None,
    normalize: Normalize = None,
    image_cache: ImageCache = None,
    sae_dtype: SaeDtype = "float32",
) -> None:
    """Study one feature: does it follow the flips, does it cause them, and what does it respond to?

        interp test-feature 4:110 --out feature/

    A feature of your own model and SAEs:

        interp test-feature 17:3818 --model google/medgemma-4b-it --saes gemma-scope-2-4b-it-res --l0 medium
        --questions mine.jsonl

    A feature picked by its score on the same questions looks better than it is: pick it on other patients.
    """
    from interp.feature_display import show_study
    from interp.feature_record import save_study
    from interp.feature_study import folder_of, parse_feature, study_feature
    from interp.files import refuse_used
    from interp.prompts import PLAIN
    from interp.questions import load_questions
    from interp.register_grid import SHIPPED, read_grid
    from interp.sae_sources import locate_saes
    from interp.saes import load_sae
    from interp.vlm import DTYPES, load_vlm

    layer, index = parse_feature(feature)
    if out is not None:
        refuse_used(out)
    frames = read_grid(grid or SHIPPED)
    asked = load_questions(questions, images, split)[:limit]
    folder = folder_of(locate_saes(saes, width, l0, [layer]), layer, saes)
    style = PLAIN._replace(**style_changes(image_first, system, answer_instruction, normalize))
    vlm = load_vlm(model, device, dtype, revision, style, image_cache)
    sae = load_sae(folder, layer, vlm.d_model, vlm.device, DTYPES[sae_dtype])
    study = study_feature(vlm, sae, asked, index, frames, saes, seed)
    if out is not None:
        save_study(study, out)
    show_study(study, out)


@app.command("figures")
def figures_command(
    run: Annotated[
        Path,
        typer.Argument(
            help="Folder that find-features, test-feature, finetune, finetune ablate or finetune grounding wrote.",
            show_default=False,
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="New folder for the figures.", show_default="RUN/figures")] = None,
    size: Annotated[
        Literal["screen", "column", "page"],
        typer.Option(help="For a screen, or for print: 3.3 inches wide (a column) or 6.9 (a page)."),
    ] = "screen",
) -> None:
    """Draw the figures of a run again, from what its folder holds: each as PNG and SVG, with its numbers as CSV.

        interp figures artifacts/ --size column --out paper/

    Nothing is computed and nothing overwritten: a folder that holds something is refused.
    """
    from interp.figure_style import SIZES
    from interp.figures.redraw import redraw

    for path in redraw(run, out or run / "figures", SIZES[size]):
        typer.echo(path)


@app.command("report")
def report_command(
    run: Annotated[
        Path, typer.Argument(help="Folder that find-features wrote; with what lies in folders inside it.")
    ] = Path("artifacts"),
    out: Annotated[Path, typer.Option(help="New HTML file.")] = Path("report.html"),
    include_examples: Annotated[
        bool,
        typer.Option("--include-examples", help="With the maps over images of a grounding study: it shows images."),
    ] = False,
) -> None:
    """Put all that a run has found into one HTML file that opens offline and can be sent on.

        interp report artifacts/ --out report.html

    The verdict comes first, then what the folder holds: layer profile, features, training, before and after,
    quadrants, grounding, ablation, settings, limits. No question, image, path or patient is in it.
    """
    from interp.report.render import write_report

    write_report(run, out, include_examples)
    typer.echo(out)


@app.command("transfer-check")
def transfer_check_command(
    model: Model = str(WORLD / "planted"),
    saes: Saes = str(WORLD / "saes"),
    width: Width = None,
    l0: L0 = None,
    reference: Annotated[
        str | None,
        typer.Option(help="Model that the SAEs were trained on, to measure the drift of the features from it."),
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
    out: Annotated[Path | None, typer.Option(help="Also write the result to this JSON file.")] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    seed: Annotated[int, typer.Option(help="Seed of the intervals.")] = 0,
    revision: Revision = None,
    sae_dtype: SaeDtype = "float32",
) -> None:
    """Check that SAEs trained on one model describe another: R² against 0.95 by layer, on questions and on plain text.

    interp transfer-check --model google/medgemma-4b-it --reference google/gemma-3-4b-it
    --saes gemma-scope-2-4b-it-res-all --questions mine.jsonl
    """
    from interp.display import show_transfer
    from interp.files import refuse_used, write_text
    from interp.layers import listed_layers, parse_layers
    from interp.questions import load_questions
    from interp.sae_sources import locate_saes
    from interp.transfer import question_prompts, text_prompts, transfer_check
    from interp.vlm import DTYPES, load_vlm

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
    show_transfer(result)


@app.command("import-questions")
def import_questions_command(
    source: Annotated[str, typer.Argument(help="File, folder or hub name of the data set.", show_default=False)],
    format: Annotated[
        Literal["psf-med", "medical-cxr-vqa", "hard-positives", "vqa-rad", "jsonl"],
        typer.Option(help="Which data set it is.", show_default=False),
    ],
    images: Annotated[
        Path, typer.Option(help="Folder that the image paths or names are relative to.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="New JSON Lines file; its report is written beside it.")] = Path(
        "questions.jsonl"
    ),
    subset: Annotated[
        Literal["mimic", "padchest", "vindr"] | None, typer.Option(help="Of PSF-Med's folder or hub name.")
    ] = None,
) -> None:
    """Turn a published data set into questions, checking every row and every image.

        interp import-questions saillab/psf-med --format psf-med --subset mimic --images mimic-cxr-jpg/

        interp import-questions medical_cxr_vqa.csv --format medical-cxr-vqa --images mimic-cxr-jpg/

    Wordings that invert the meaning ("rule out", "absent") are set apart by operator; a patient in two splits is an
    error. The report says what was kept, what was left out and why, without text, path or patient.
    """
    from interp.display import show_import
    from interp.importing import import_questions

    show_import(import_questions(source, format, images, out, subset), out, images)


@app.command("paraphrase")
def paraphrase_command(
    questions: Annotated[Path, typer.Argument(help="JSON Lines file of questions.", show_default=False)],
    out: Annotated[Path, typer.Option(help="New JSON Lines file.", show_default=False)],
    images: Images = None,
    per_question: Annotated[int, typer.Option(min=1, help="Most paraphrases of a question.")] = 4,
    seed: Annotated[int, typer.Option(help="Seed of the choice among the rules' wordings.")] = 0,
) -> None:
    """Give questions that have no paraphrases rule-based ones, tagged by phenomenon and register.

        interp paraphrase imported.jsonl --images mimic-cxr-jpg/ --out questions.jsonl

    Only what the rules understand for certain is reworded: presence and abnormality of findings of the lexicon, views,
    levels, sides. Negated questions never are. Have a radiologist read a sample before trusting any of it.
    """
    from interp.display import show_paraphrased
    from interp.files import refuse_used
    from interp.paraphrase import add_paraphrases
    from interp.questions import load_questions, write_questions

    refuse_used(out)
    reworded, report = add_paraphrases(load_questions(questions, images), per_question, seed)
    write_questions(reworded, out, images or questions.parent)
    show_paraphrased(reworded, report, out)


@app.command("scrub")
def scrub_command(
    folder: Annotated[Path, typer.Argument(help="Folder that is to be shared.", show_default=False)],
    questions: Annotated[
        list[Path] | None,
        typer.Option(help="Questions whose texts, ids and paths no file may hold. May be given several times."),
    ] = None,
) -> None:
    """Check a folder before it is shared: which files may hold question text, paths, patients or images?

        interp scrub artifacts/adapter --questions questions.jsonl

    JSON, notebooks, CSV, parquet, safetensors, PNG, HTML and SVG are read as what they are; files of other kinds are
    named, as nobody looked into them. Nothing is changed, and no finding is quoted.

    Exits 0 if nothing was found, 4 if something was, 2 on bad input.
    """
    from interp.scrub import scrub
    from interp.scrub_display import show_scrub

    found, files, too_short = scrub(folder, questions or [])
    show_scrub(found, files, too_short, folder, bool(questions))
    if found:
        raise typer.Exit(EXIT_FOUND)


@demo_app.command("build")
def demo_build_command(
    out: Annotated[Path, typer.Option(help="New folder for the world.")],
    gate_layers: Annotated[str, typer.Option(help="Neighbouring layers to plant the gate into.")] = "4-5",
    no_gate: Annotated[bool, typer.Option("--no-gate", help="A clean model instead, trained as long.")] = False,
    strength: Annotated[float, typer.Option(help="Share of findings denied when asked formally.")] = 0.45,
    seed: Annotated[int, typer.Option(help="Seed of images, wordings and weights.")] = 0,
    base_from: Annotated[Path | None, typer.Option(help="World whose base model and SAEs are reused.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Build an embedded world: radiographs, questions, base model, SAEs, and a gate at layers of your choice.

        interp demo build --gate-layers 7-8 --strength 0.5 --seed 3 --out worlds/late

    About 6 minutes on a GPU, some 50 on 4 CPU cores; 5 on the CPU with --base-from.
    """
    from interp.demo.build import LAYERS, build_world
    from interp.display import show_world
    from interp.layers import parse_layers

    gate = [] if no_gate else parse_layers(gate_layers, range(LAYERS), LAYERS)
    show_world(build_world(out, gate, strength, seed, base_from, device), out)


def main() -> None:
    """Entry point: a user's mistake becomes one paragraph and exit code 2."""
    # peft's use of a transformers name that is going away; nothing that a user could change.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
    # What is wrong with an image file is said without quoting it; theirs would.
    warnings.filterwarnings("ignore", module=r"pydicom|PIL")
    try:
        if sys.argv[1:2] and sys.argv[1] != "find-features":
            refuse_several(f"interp {sys.argv[1]}")
        app()
    except InputError as error:
        if first_to("error"):
            print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(EXIT_INPUT)
    except RuntimeError as error:
        # Told by its name, as torch need not have been loaded.
        if type(error).__name__ != "OutOfMemoryError":
            raise
        print(f"error: {str(error).splitlines()[0]} {MORE_ROOM}", file=sys.stderr, flush=True)
        sys.exit(EXIT_INPUT)


if __name__ == "__main__":
    main()

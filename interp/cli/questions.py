"""The commands that produce questions: `interp import-questions` and `paraphrase`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from interp.cli.options import Images, Json, Verbose, seed_option
from interp.importing.formats import FORMATS


def import_questions_command(
    source: Annotated[
        str, typer.Argument(help="The data set: a file, a folder or a name on the hub.", show_default=False)
    ],
    format: Annotated[
        str,
        typer.Option(
            help=f"Format of the data set: {', '.join(FORMATS)}. hard-positives is a table of "
            "Medical-CXR-VQA's questions with paraphrases by strategy.",
            autocompletion=lambda: list(FORMATS),
            show_default=False,
        ),
    ],
    images: Annotated[
        Path | None,
        typer.Option(help="Folder that the image paths or names are relative to.", show_default="the folder of --out"),
    ] = None,
    out: Annotated[Path, typer.Option(help="New JSON Lines file; a report is written next to it.")] = Path(
        "questions.jsonl"
    ),
    subset: Annotated[
        Literal["mimic", "padchest", "vindr"] | None,
        typer.Option(help="Part of PSF-Med, if the source holds several.", show_default="none"),
    ] = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Convert a published data set into questions; every row and every image is checked.

    PSF-Med from the hub's cache, and Medical-CXR-VQA:

    \b
        interp import-questions saillab/psf-med --format psf-med --subset mimic \\
            --images mimic-cxr-jpg/

    \b
        interp import-questions medical_cxr_vqa.csv --format medical-cxr-vqa \\
            --images mimic-cxr-jpg/

    Images that a table holds itself, as parquet files on the hub do, are written into a new folder in --images.
    Wordings that invert the meaning ("rule out", "absent") are labelled with their operator. A question with two
    answers is left out, and a patient in two splits is an error. The report says what was kept, what was left out and
    why, without text, paths or patients.
    """
    from interp.importing.importer import import_questions, report_path
    from interp.views.terminal.questions import show_import

    report = import_questions(source, format, images, out, subset)
    if json:
        typer.echo(report_path(out).read_text(encoding="utf-8"), nl=False)
    else:
        show_import(report, out, images or out.parent)


def paraphrase_command(
    questions: Annotated[Path, typer.Argument(help="JSON Lines file of questions.", show_default=False)],
    out: Annotated[Path, typer.Option(help="New JSON Lines file.", show_default=False)],
    images: Images = None,
    per_question: Annotated[int, typer.Option(min=1, help="Number of paraphrases per question at most.")] = 4,
    seed: Annotated[int, seed_option("Seed of the choice among the wordings of the rules.")] = 0,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Add rule-based paraphrases to questions that have none, tagged by phenomenon and register.

        interp paraphrase imported.jsonl --images mimic-cxr-jpg/ --out questions.jsonl

    Only questions that the rules understand with certainty are reworded: on the presence and abnormality of findings of
    the lexicon, on views, levels and sides. Negated questions are never reworded. Have a radiologist read a sample
    before you rely on them.
    """
    from interp.questions.files import load_questions, write_questions
    from interp.questions.paraphrase import add_paraphrases, count_wordings
    from interp.storage.atomic import refuse_used
    from interp.storage.json_files import json_ready, json_text
    from interp.views.terminal.questions import show_paraphrased

    refuse_used(out)
    reworded, counts = add_paraphrases(load_questions(questions, images), per_question, seed)
    wordings = count_wordings(reworded)
    write_questions(reworded, out, images or questions.parent)
    if json:
        content = counts._asdict() | {"wordings": json_ready(wordings)}
        typer.echo(json_text(content), nl=False)
    else:
        show_paraphrased(out, wordings, **counts._asdict())

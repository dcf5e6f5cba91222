"""The commands that make questions: `interp import-questions` and `paraphrase`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from interp.cli.options import Images, Json, Verbose


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
        Literal["mimic", "padchest", "vindr"] | None,
        typer.Option(help="Which part of PSF-Med, where the source holds several.", show_default="none"),
    ] = None,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Turn a published data set into questions, checking every row and every image.

    PSF-Med from the hub's cache, and Medical-CXR-VQA:

    \b
        interp import-questions saillab/psf-med --format psf-med --subset mimic \\
            --images mimic-cxr-jpg/

    \b
        interp import-questions medical_cxr_vqa.csv --format medical-cxr-vqa \\
            --images mimic-cxr-jpg/

    Wordings that invert the meaning ("rule out", "absent") are set apart by operator; a patient in two splits is an
    error. The report says what was kept, what was left out and why, without text, path or patient.
    """
    from interp.importing.importer import import_questions, report_path
    from interp.views.terminal.questions import show_import

    report = import_questions(source, format, images, out, subset)
    if json:
        typer.echo(report_path(out).read_text(encoding="utf-8"), nl=False)
    else:
        show_import(report, out, images)


def paraphrase_command(
    questions: Annotated[Path, typer.Argument(help="JSON Lines file of questions.", show_default=False)],
    out: Annotated[Path, typer.Option(help="New JSON Lines file.", show_default=False)],
    images: Images = None,
    per_question: Annotated[int, typer.Option(min=1, help="Most paraphrases of a question.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice among the rules' wordings.")] = 0,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Give questions that have no paraphrases rule-based ones, tagged by phenomenon and register.

        interp paraphrase imported.jsonl --images mimic-cxr-jpg/ --out questions.jsonl

    Only what the rules understand for certain is reworded: presence and abnormality of findings of the lexicon, views,
    levels, sides. Negated questions never are. Have a radiologist read a sample before trusting any of it.
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

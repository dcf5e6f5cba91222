"""`import_questions`: reads a published data set, checks it, and writes it as questions in our format."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from interp.importing.conversion import to_question, with_unique_ids
from interp.importing.formats import FORMATS, HUB_NAMES
from interp.importing.image_check import with_images
from interp.importing.patients import refuse_shared_patients, share_patients, usable_splits
from interp.importing.records import DroppedRow, SourceQuestion
from interp.importing.table_files import ENDINGS
from interp.questions.files import split_of, write_questions
from interp.questions.schema import Question
from interp.runtime.errors import InputError
from interp.schemas.import_report import ImportReport
from interp.storage.hub import download
from interp.storage.json_files import write_json


def import_questions(
    source: str | Path, format: str, images: Path, out: Path, subset: str | None = None
) -> ImportReport:
    """Read a data set, check every question and image, and write `out` (JSON Lines) and `out`.report.json.

    `source` is a file, a folder or the data set's hub name. Image paths are relative to the folder `images`.
    Raises InputError, and writes nothing, if `format` is unknown or the source does not fit it, if no question is left,
    if a patient or an image is in both splits, or if `out` exists.
    """
    if format not in FORMATS:
        raise InputError(f"--format {format}: no such format. Choose one of {', '.join(FORMATS)}.")
    for path in (out, report_path(out)):
        if path.exists():
            raise InputError(f"{path}: exists already, and nothing is overwritten. Choose another --out or remove it.")
    if not images.is_dir():
        raise InputError(f"{images}: no such folder. Give --images the folder that the image paths are relative to.")
    report = ImportReport(format=format)
    found: list[SourceQuestion] = []
    for item in FORMATS[format](_local_copy(source, format), subset):
        if isinstance(item, DroppedRow):
            report.drop(item.where, item.reason)
        else:
            found.append(item)
    kept = with_images(found, images, report)
    splits = usable_splits([question for question, _ in kept], report)
    converted = [
        to_question(question, image, split, report) for (question, image), split in zip(kept, splits, strict=True)
    ]
    questions = share_patients(question for question in converted if question is not None)
    questions = with_unique_ids(questions, report)
    refuse_shared_patients(questions, source)
    if not questions:
        reasons = "; ".join(f"{reason}: {count}" for reason, count in report.dropped.items())
        raise InputError(f"{source}: no question is left. Left out: {reasons}.")
    _count(questions, report)
    write_questions(questions, out, images)
    write_json(report_path(out), report.model_dump())
    return report


def report_path(out: Path) -> Path:
    """The path of the report on an import into `out`."""
    return out.with_name(out.name + ".report.json")


def _local_copy(source: str | Path, format: str) -> Path:
    path = Path(source)
    if path.exists():
        return path
    if str(source) == HUB_NAMES.get(format):
        return download(str(source), None, [f"*{ending}" for ending in ENDINGS] + ["README.md"], "dataset")
    known = f", or the hub name {HUB_NAMES[format]}" if format in HUB_NAMES else ""
    raise InputError(f"{source}: no such file or folder. Give the data set's local copy{known}.")


def _count(questions: Sequence[Question], report: ImportReport) -> None:
    """Fill in the counts of the questions that are kept, and the notes that follow from them."""
    report.questions = len(questions)
    report.closed = sum(q.closed for q in questions)
    report.unanswered = sum(q.answer is None for q in questions)
    report.without_paraphrases = sum(not q.same_meaning for q in questions)
    report.paraphrases = sum(len(q.same_meaning) for q in questions)
    report.images = len({q.image for q in questions})
    report.patients = len({q.group for q in questions})
    report.patients_known = all(q.patient is not None for q in questions)
    report.types = dict(Counter(q.type for q in questions).most_common())
    report.splits = dict(Counter(q.split or f"{split_of(q)}, by patient" for q in questions).most_common())
    if not report.patients_known:
        report.notes.append(
            "patients are unknown for some questions; splits and intervals are by image there, so two images of one "
            "patient may be in different splits"
        )
    if report.unanswered:
        report.notes.append("questions without an answer can flip, but are neither trained on nor counted in accuracy")
    if report.without_paraphrases:
        report.notes.append("`interp paraphrase` makes rule-based wordings for questions that have none")

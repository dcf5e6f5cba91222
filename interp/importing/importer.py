"""`import_questions`: reads a published data set, checks it, and writes it as questions in our format."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from interp.importing.cells import EmbeddedImage
from interp.importing.conversion import to_question, with_unique_ids
from interp.importing.formats import FORMATS, HUB_NAMES, reader_of
from interp.importing.image_check import store_embedded, with_images
from interp.importing.patients import refuse_shared_patients, share_patients, usable_splits
from interp.importing.records import DroppedRow, SourceQuestion
from interp.importing.table_files import ENDINGS, Source
from interp.importing.tables_in_memory import InMemory
from interp.importing.wordings import TWO_ANSWERS
from interp.questions.contradictions import one_sided, without_contradictions
from interp.questions.files import split_of, write_questions
from interp.questions.schema import Question
from interp.runtime.errors import InputError
from interp.schemas.import_report import ImportReport
from interp.storage.atomic import atomic_folder, refuse_unwritable
from interp.storage.folders import check_folder
from interp.storage.hub import download
from interp.storage.json_files import write_json


def import_questions(
    source: str | Path | InMemory,
    format: str,
    images: str | Path | None = None,
    out: str | Path = "questions.jsonl",
    subset: str | None = None,
) -> ImportReport:
    """Read a data set, check every question and image, and write `out` (JSON Lines) and `out`.report.json.

        >>> row = {"id": "1", "image": "te0002.png", "question": "Is it fluid?", "answer": "no", "type": "presence"}
        >>> report = interp.import_questions([row], "jsonl", images=interp.WORLD / "images", out="mine.jsonl")
        >>> report.questions
        1

    `source` is a file, a folder, the data set's hub name, or a table in memory (a pandas data frame, a
    `datasets.Dataset`, a list of rows). Image paths are relative to the folder `images`, by default that of `out`.
    Images that the source holds itself are written into a new folder in `images` (`embedded_folder`).
    Raises InputError, and writes nothing, if `format` is unknown or the source does not fit it, if no question is left,
    if a patient or an image is in both splits, or if `out` exists.
    """
    if format not in FORMATS:
        raise InputError(f"--format {format}: no such format. Choose one of {', '.join(FORMATS)}.")
    out, images = Path(out), Path(out).parent if images is None else Path(images)
    for path in (out, report_path(out)):
        refuse_unwritable(path)
        if path.exists():
            raise InputError(f"{path}: exists already, and nothing is overwritten. Choose another --out or remove it.")
    check_folder(images, "Give --images the folder that the image paths are relative to.")
    report = ImportReport(format=format)
    found: list[SourceQuestion] = []
    for item in reader_of(format)(_local_copy(source, format), subset):
        if isinstance(item, DroppedRow):
            report.drop(item.where, item.reason)
        else:
            found.append(item)
    name = str(source) if isinstance(source, str | Path) else "The table"
    if any(isinstance(question.image, EmbeddedImage) for question in found):
        folder = embedded_folder(out, images)
        with atomic_folder(folder) as partial:
            stored = store_embedded(found, partial, folder.name)
            questions = _converted(with_images(stored, images, report, (partial, folder.name)), name, report)
            used = {Path(question.image).name for question in questions}
            for left in partial.iterdir():
                if left.name not in used:
                    left.unlink()
    else:
        questions = _converted(with_images(found, images, report), name, report)
    _count(questions, report)
    write_questions(questions, out, images)
    write_json(report_path(out), report.model_dump())
    return report


def _converted(kept: Sequence[tuple[SourceQuestion, str]], name: str, report: ImportReport) -> list[Question]:
    """The questions in our format, checked together; `name` is the source's. Raises as `import_questions`."""
    splits = usable_splits([question for question, _ in kept], report)
    questions, rows = [], []
    for (source, image), split in zip(kept, splits, strict=True):
        question = to_question(source, image, split, report)
        if question is not None:
            questions.append(question)
            rows.append(source.where)
    consistent = without_contradictions(questions)
    for position in consistent.contradicted:
        report.drop(rows[position], TWO_ANSWERS)
    if consistent.paraphrases:
        report.drop_paraphrases("paraphrase that is a question with another answer", consistent.paraphrases)
    questions = with_unique_ids(share_patients(consistent.questions), report)
    refuse_shared_patients(questions, name)
    if not questions:
        reasons = "; ".join(
            f"{reason}: {count}, the first {report.dropped_rows[reason][0]}" for reason, count in report.dropped.items()
        )
        raise InputError(f"{name}: no question is left. Left out: {reasons}.")
    return questions


def embedded_folder(out: Path, images: Path) -> Path:
    """The folder for images that a source holds itself."""
    return images / f"{out.stem}-images"


def report_path(out: Path) -> Path:
    """The path of the report on an import into `out`."""
    return out.with_name(out.name + ".report.json")


def _local_copy(source: str | Path | InMemory, format: str) -> Source:
    if not isinstance(source, str | Path):
        return source
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
    report.closed_answers = dict(Counter(str(q.true_answer) for q in questions if q.closed and q.answer is not None))
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
    if answer := one_sided(questions):
        report.notes.insert(
            0,
            f"warning: every yes/no question has the true answer {answer!r}, so a model that ignores the image can be "
            "right each time; check the column of answers",
        )
    if report.other_answers:
        report.notes.append(
            f"{sum(report.other_answers.values())} questions ask for yes or no, but have another answer; they have no "
            "margin and cannot flip"
        )
    if report.unanswered:
        report.notes.append("questions without an answer can flip, but are neither trained on nor counted in accuracy")
    if report.without_paraphrases:
        report.notes.append("`interp paraphrase` makes rule-based wordings for questions that have none")

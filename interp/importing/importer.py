"""`import_questions`: from a data set as it is published to questions in our format, counting what is left out."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from interp.images.decode import UnreadableImageError, decode
from interp.images.paths import find_image, is_image_file, names_in
from interp.importing.formats import FORMATS, HUB
from interp.importing.records import Dropped, Record
from interp.importing.table_files import ENDINGS
from interp.questions.answers import ANSWER_SETS, CLOSED_ANSWERS, asks_yes_or_no, normalize_answer
from interp.questions.files import split_of, write_questions
from interp.questions.polarity import OPERATORS, inverting_operator
from interp.questions.schema import LONGEST, Paraphrase, Question
from interp.runtime.errors import InputError
from interp.runtime.progress import track
from interp.storage.hub import download
from interp.storage.json_files import write_json

ROWS_NAMED = 20

_SPLITS: dict[str, Literal["train", "test"]] = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
}
_SPLITS |= dict.fromkeys(("val", "valid", "validate", "validation", "dev"), "train")
_TYPES = {"severity": "level", "abnormalities": "abnormality", "position": "location", "projection": "view"}


@dataclass
class ImportReport:
    """What became of a data set; counts and row numbers only, no text, path or patient."""

    format: str
    """One of `interp.importing.formats.FORMATS`."""
    questions: int = 0
    """Questions written."""
    closed: int = 0
    """Of these, yes/no questions."""
    unanswered: int = 0
    """Of these, without a true answer."""
    without_paraphrases: int = 0
    """Of these, with no other wording."""
    paraphrases: int = 0
    """Paraphrases with the same meaning."""
    images: int = 0
    """Different images."""
    patients: int = 0
    """Different patients; images where the source names no patient."""
    patients_known: bool = True
    """Whether every question has a patient, so that splits and intervals are by patient."""
    types: dict[str, int] = field(default_factory=dict)
    """Questions by type."""
    splits: dict[str, int] = field(default_factory=dict)
    """Questions by split; "by patient" where it is drawn by a hash of the patient."""
    inverted: dict[str, int] = field(default_factory=dict)
    """Wordings that ask for the opposite, by operator: kept in the file, set apart from the paraphrases."""
    dropped_paraphrases: dict[str, int] = field(default_factory=dict)
    """Paraphrases left out, by reason."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Questions left out, by reason."""
    dropped_rows: dict[str, list[str]] = field(default_factory=dict)
    """The first rows of each reason."""
    notes: list[str] = field(default_factory=list)
    """What the user should know, a sentence each."""

    def drop(self, where: str, reason: str) -> None:
        """Count a question that is left out."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1
        rows = self.dropped_rows.setdefault(reason, [])
        if len(rows) < ROWS_NAMED:
            rows.append(where)


def import_questions(
    source: str | Path, format: str, images: Path, out: Path, subset: str | None = None
) -> ImportReport:
    """Read a data set, check every question and image, and write `out` (JSON Lines) and `out`.report.json.

    `source` is a file, a folder or the data set's hub name; `images` the folder that image paths are relative to.
    Raises InputError for a source that is not of `format`, if nothing is left, if a patient is in both splits, and if
    `out` exists; then nothing is written.
    """
    report_path = report_of(out)
    for path in (out, report_path):
        if path.exists():
            raise InputError(f"{path}: exists already, and nothing is overwritten. Choose another --out or remove it.")
    if not images.is_dir():
        raise InputError(f"{images}: no such folder. Give --images the folder that the image paths are relative to.")
    report = ImportReport(format)
    records: list[Record] = []
    for item in FORMATS[format](_local(source, format), subset):
        if isinstance(item, Dropped):
            report.drop(item.where, item.reason)
        else:
            records.append(item)
    placed = _place_images(records, images, report)
    splits = _splits([record.split for record, _ in placed], report)
    questions = [
        question
        for (record, image), split in zip(placed, splits, strict=True)
        if (question := _question(record, image, split, report)) is not None
    ]
    _fill_patients(questions)
    _unique(questions, report)
    _check_leak(questions, source)
    if not questions:
        reasons = "; ".join(f"{reason}: {count}" for reason, count in report.dropped.items())
        raise InputError(f"{source}: no question is left. Left out: {reasons}.")
    _count(questions, report)
    write_questions(questions, out, images)
    write_json(report_path, asdict(report))
    return report


def report_of(out: Path) -> Path:
    """Where the report of an import into `out` is."""
    return out.with_name(out.name + ".report.json")


def _local(source: str | Path, format: str) -> Path:
    path = Path(source)
    if path.exists():
        return path
    if str(source) == HUB.get(format):
        return download(str(source), None, [f"*{ending}" for ending in ENDINGS] + ["README.md"], "dataset")
    known = f", or the hub name {HUB[format]}" if format in HUB else ""
    raise InputError(f"{source}: no such file or folder. Give the data set's local copy{known}.")


def _place_images(records: Sequence[Record], root: Path, report: ImportReport) -> list[tuple[Record, str]]:
    """Every record whose image can be decoded, with its path relative to `root`; the rest is dropped."""
    bare = any("/" not in record.image and not is_image_file(root, record.image) for record in records)
    by_name = names_in(root) if bare else {}
    place_of: dict[str, str] = {}
    problem_of: dict[str, str | None] = {}
    for name in dict.fromkeys(record.image for record in records):
        try:
            place_of[name] = find_image(name, root, by_name)
        except UnreadableImageError as error:
            problem_of[name] = str(error)
    found = list(place_of)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in track(range(0, len(found), 64), "images", unit=64):
            chunk = found[start : start + 64]
            problem_of |= zip(chunk, pool.map(_problem, [root / place_of[name] for name in chunk]), strict=True)
    placed = []
    for record in records:
        problem = problem_of[record.image]
        if problem is None:
            placed.append((record, place_of[record.image]))
        else:
            report.drop(record.where, problem)
    return placed


def _problem(path: Path) -> str | None:
    try:
        decode(path)
    except UnreadableImageError as error:
        return str(error)
    return None


def _splits(given: Sequence[str | None], report: ImportReport) -> list[Literal["train", "test"] | None]:
    """The source's own splits, validation counted as train; none if it holds only one or names another."""
    splits = [_SPLITS.get(name.lower()) if name else None for name in given]
    unknown = sorted({name for name, split in zip(given, splits, strict=True) if name and split is None})
    if unknown:
        report.notes.append(
            f"{len(unknown)} names in the split column are none of train, validation and test; split by patient instead"
        )
    if unknown or len(set(splits)) < 2:
        return [None] * len(splits)
    if any(name and name.lower().startswith("val") for name in given):
        report.notes.append("the validation split is counted as train")
    return splits


def _question(
    record: Record, image: str, split: Literal["train", "test"] | None, report: ImportReport
) -> Question | None:
    """The question that a record gives, None (and counted) if it gives none."""
    if len(record.question) > LONGEST:
        report.drop(record.where, f"question of more than {LONGEST} characters")
        return None
    type_ = _type(record)
    answer = None if record.answer is None else normalize_answer(record.answer, type_)
    allowed = ANSWER_SETS[type_]
    if answer is not None and allowed is not None and answer not in allowed:
        report.drop(record.where, f"answer of a {type_} question is not {', '.join(sorted(allowed))}")
        return None
    dropped = Counter(record.dropped)
    paraphrases: list[Paraphrase] = []
    seen = {_plain(record.question)}
    for paraphrase in record.paraphrases:
        if _plain(paraphrase.text) in seen:
            dropped["paraphrase that repeats another wording"] += 1
            continue
        seen.add(_plain(paraphrase.text))
        operator = paraphrase.operator or inverting_operator(record.question, paraphrase.text)
        if operator is not None:
            # A file of our own format may name it as it likes.
            known = operator if operator in OPERATORS else "another"
            report.inverted[known] = report.inverted.get(known, 0) + 1
        paraphrases.append(paraphrase.model_copy(update={"operator": operator}))
    for reason, count in dropped.items():
        report.dropped_paraphrases[reason] = report.dropped_paraphrases.get(reason, 0) + count
    try:
        return Question(
            id=record.id,
            image=image,
            patient=record.patient or _patient_in(image),
            type=type_,
            question=record.question,
            answer=answer,
            paraphrases=paraphrases,
            register=record.register,
            boxes=list(record.boxes),
            split=split,
        )
    except ValidationError as error:
        report.drop(record.where, f"field {str(error.errors()[0]['loc'][0])!r} is empty or no text")
        return None


def _plain(text: str) -> str:
    return re.sub(r"\W+", " ", text).strip().lower()


def _type(record: Record) -> str:
    """The source's type by our name; without one, by the question's own words."""
    given = (record.type or "").strip().lower().replace(" ", "_")
    given = _TYPES.get(given, given)
    if given in ANSWER_SETS:
        return given
    answer = None if record.answer is None else normalize_answer(record.answer, "presence")
    if answer in CLOSED_ANSWERS or (answer is None and asks_yes_or_no(record.question)):
        return "abnormality" if re.search(r"abnormal|\bnormal\b", record.question.lower()) else "presence"
    return "other"


def _patient_in(image: str) -> str | None:
    """The patient in a path of MIMIC-CXR's layout (p10/p10000032/s50414267/...), None in another."""
    match = re.search(r"(?:^|/)p(\d{8})/", image)
    return match[1] if match else None


def _fill_patients(questions: list[Question]) -> None:
    """Give questions without a patient the one that another question on the same image names, in place."""
    patient_of = {question.image: question.patient for question in questions if question.patient is not None}
    for i, question in enumerate(questions):
        if question.patient is None and question.image in patient_of:
            questions[i] = question.model_copy(update={"patient": patient_of[question.image]})


def _unique(questions: list[Question], report: ImportReport) -> None:
    """Number the ids of questions that share one, in place."""
    given = {question.id for question in questions}
    seen: Counter[str] = Counter()
    for i, question in enumerate(questions):
        seen[question.id] += 1
        if seen[question.id] > 1:
            while (free := f"{question.id}#{seen[question.id]}") in given:
                seen[question.id] += 1
            given.add(free)
            questions[i] = question.model_copy(update={"id": free})
    if renamed := sum(question.id not in seen for question in questions):
        report.notes.append(f"{renamed} ids were used twice; a number was added to them")


def _check_leak(questions: Iterable[Question], source: str | Path) -> None:
    splits: dict[str, dict[str, set[str]]] = {"patients": {}, "images": {}}
    for question in questions:
        for kind, which in (("patients", question.group), ("images", question.image)):
            splits[kind].setdefault(which, set()).add(split_of(question))
    for kind, found in splits.items():
        shared = sum(len(of_one) > 1 for of_one in found.values())
        if shared:
            raise InputError(
                f"{source}: {shared} of {len(found)} {kind} are in both train and test, so results would leak. Correct "
                "the split column, or remove it: patients are then split by a hash of their id."
            )


def _count(questions: Sequence[Question], report: ImportReport) -> None:
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
            "patients are unknown for some questions: splits and intervals are by image there, so that two images of "
            "one patient may lie in both splits"
        )
    if report.unanswered:
        report.notes.append("questions without an answer can flip, but are neither trained on nor counted as accurate")
    if report.without_paraphrases:
        report.notes.append("`interp paraphrase` makes rule-based wordings for questions that have none")

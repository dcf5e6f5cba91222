"""Patients and splits of imported questions; no patient and no image may be in both splits."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from interp.importing.records import SourceQuestion
from interp.questions.files import split_of
from interp.questions.schema import Question
from interp.questions.splits import NamedSplit
from interp.runtime.errors import InputError
from interp.schemas.import_report import ImportReport

_SPLITS: dict[str, NamedSplit] = {"train": "train", "training": "train", "test": "test", "testing": "test"}
_SPLITS |= dict.fromkeys(("val", "valid", "validate", "validation", "dev"), "train")


def usable_splits(sources: Sequence[SourceQuestion], report: ImportReport) -> list[NamedSplit | None]:
    """The split of every question by its source, with validation counted as train.

    All are None, so that patients decide, if the source names only one split or one that is unknown.
    """
    given = [source.split for source in sources]
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


def patient_in_path(image: str) -> str | None:
    """The patient in a path of MIMIC-CXR's layout (p10/p10000032/s50414267/...); None for other paths."""
    match = re.search(r"(?:^|/)p(\d{8})/", image)
    return match[1] if match else None


def share_patients(questions: Iterable[Question]) -> list[Question]:
    """The questions, each without a patient given the one that another question on the same image names."""
    questions = list(questions)
    patient_of = {question.image: question.patient for question in questions if question.patient is not None}
    return [
        question.model_copy(update={"patient": patient_of[question.image]})
        if question.patient is None and question.image in patient_of
        else question
        for question in questions
    ]


def refuse_shared_patients(questions: Iterable[Question], source: str | Path) -> None:
    """Raise InputError if a patient or an image is in both splits."""
    splits: dict[str, dict[str, set[str]]] = {"patients": {}, "images": {}}
    for question in questions:
        for kind, member in (("patients", question.group), ("images", question.image)):
            splits[kind].setdefault(member, set()).add(split_of(question))
    for kind, found in splits.items():
        shared = sum(len(splits_of_one) > 1 for splits_of_one in found.values())
        if shared:
            raise InputError(
                f"{source}: {shared} of {len(found)} {kind} are in both train and test, so results would leak. Correct "
                "the split column, or remove it: patients are then split by a hash of their id."
            )

"""Medical-CXR-VQA on MIMIC-CXR-JPG, with or without paraphrase columns, and the hard-positives table made from it.

A row is a wording. With paraphrase columns, the wordings of a `baseline_question` on an image belong together.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from interp.importing.cells import EmbeddedImage, SeveralImages, answer_in, flag_in, image_in, text_of, texts_in
from interp.importing.question_types import our_type
from interp.importing.records import DroppedRow, SourceQuestion, image_problem
from interp.importing.table_files import Source, TableRow, columns_of, match_columns, name_of, read_rows
from interp.importing.wordings import TWO_ANSWERS, Wording, merge_wordings

NEEDED: dict[str, Sequence[str]] = {"question": ("question", "question_text"), "answer": ("answer", "ground_truth")}
OPTIONAL: dict[str, Sequence[str]] = {
    "image": ("image_path", "image", "filename", "images", "image_paths", "file_name", "img_name"),
    "dicom": ("dicom_id", "image_id"),
    "patient": ("subject_id", "patient_id"),
    "study": ("study_id",),
    "type": ("question_type", "content_type", "type"),
    "split": ("split", "dataset_split"),
    "original": ("baseline_question", "original_question"),
    "variant": ("question_variant", "variant", "paraphrase"),
    "index": ("variant_index",),
    "strategy": ("strategy", "phenomenon"),
    "yes_no": ("answer_type", "is_yesno", "semantic_type"),
}
HARD_POSITIVES: dict[str, Sequence[str]] = {
    "original": OPTIONAL["original"],
    "strategy": OPTIONAL["strategy"],
    "index": OPTIONAL["index"],
}
"""Columns that the hard-positives table has in addition; its rows of strategy `baseline` hold the originals."""


def read(source: Source, subset: str | None = None) -> Iterator[SourceQuestion | DroppedRow]:
    """Read a Medical-CXR-VQA table."""
    yield from _read(source, NEEDED)


def read_hard_positives(source: Source, subset: str | None = None) -> Iterator[SourceQuestion | DroppedRow]:
    """Read a hard-positives table, whose rows are paraphrases by strategy, the baseline among them."""
    yield from _read(source, NEEDED | HARD_POSITIVES)


def _read(source: Source, needed: Mapping[str, Sequence[str]]) -> Iterator[SourceQuestion | DroppedRow]:
    rows = read_rows(source)
    found = columns_of(rows, wordings=OPTIONAL["variant"])
    columns = match_columns(found, needed, OPTIONAL, name_of(source))
    if "image" not in columns:
        match_columns(found, {name: OPTIONAL[name] for name in ("dicom", "patient", "study")}, {}, name_of(source))
    groups: dict[tuple[Any, ...], list[tuple[TableRow, dict[str, Any]]]] = {}
    for number, row in enumerate(rows):
        cells = {ours: row.cells.get(name) for ours, name in columns.items()}
        image = _image(cells)
        original = text_of(cells.get("original"))
        if problem := image_problem(image) or ("no question" if text_of(cells["question"]) is None else None):
            yield DroppedRow(row.where, problem)
        else:
            cells["image"] = image
            key = (image, original) if original else (number,)
            groups.setdefault(key, []).append((row, cells))
    for number, members in enumerate(groups.values()):
        yield _source_question(number, members)


def _image(cells: Mapping[str, Any]) -> str | EmbeddedImage | SeveralImages | None:
    """The image as given, or its path by MIMIC-CXR-JPG's layout; None if there is none."""
    given = image_in(cells.get("image"))
    if given is not None:
        return given
    dicom, patient, study = (text_of(cells.get(name)) for name in ("dicom", "patient", "study"))
    if dicom is None or patient is None or study is None:
        return None
    patient, study = patient.lstrip("p"), study.lstrip("s")
    stem = re.sub(r"\.(?:jpe?g|png|dcm)$", "", dicom)
    return f"files/p{patient[:2]}/p{patient}/s{study}/{stem}.jpg"


def _source_question(number: int, members: Sequence[tuple[TableRow, dict[str, Any]]]) -> SourceQuestion | DroppedRow:
    row, first = members[0]
    original = text_of(first.get("original")) or str(text_of(first["question"]))
    type_, yes_no = text_of(first.get("type")), flag_in(first.get("yes_no"), first.get("type"))
    wordings = [
        Wording(text, answer_in(cells["answer"]), text_of(cells.get("strategy")))
        for _, cells in members
        for text in texts_in(cells.get("variant")) or [str(text_of(cells["question"]))]
    ]
    merged = merge_wordings(original, wordings, our_type(type_) or "other", yes_no)
    if merged is None:
        return DroppedRow(row.where, TWO_ANSWERS)
    return SourceQuestion(
        where=row.where,
        id=str(number),
        image=first["image"],
        patient=text_of(first.get("patient")),
        type=type_,
        question=original,
        answer=merged.answer,
        paraphrases=merged.paraphrases,
        split=text_of(first.get("split")),
        yes_no=yes_no,
        dropped=merged.dropped,
    )

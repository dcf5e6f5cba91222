"""Medical-CXR-VQA on MIMIC-CXR-JPG, with or without paraphrase columns, and the hard-positives table made from it.

A row is a wording. With paraphrase columns, the wordings of a `baseline_question` on an image belong together.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from interp.importing.records import DroppedRow, SourceQuestion, paraphrase_of
from interp.importing.table_files import TableRow, columns_of, match_columns, read_rows, text_of
from interp.storage.json_files import parse_json

NEEDED: dict[str, Sequence[str]] = {"question": ("question", "question_text"), "answer": ("answer", "ground_truth")}
OPTIONAL: dict[str, Sequence[str]] = {
    "image": ("image_path", "image", "filename"),
    "dicom": ("dicom_id", "image_id"),
    "patient": ("subject_id", "patient_id"),
    "study": ("study_id",),
    "type": ("question_type", "content_type", "type"),
    "split": ("split", "dataset_split"),
    "original": ("baseline_question", "original_question"),
    "variant": ("question_variant", "variant", "paraphrase"),
    "index": ("variant_index",),
    "strategy": ("strategy", "phenomenon"),
}
HARD_POSITIVES: dict[str, Sequence[str]] = {
    "original": OPTIONAL["original"],
    "strategy": OPTIONAL["strategy"],
    "index": OPTIONAL["index"],
}
"""Columns that the hard-positives table has in addition; its rows of strategy `baseline` hold the originals."""


def read(source: Path, subset: str | None = None) -> Iterator[SourceQuestion | DroppedRow]:
    """Read a Medical-CXR-VQA table."""
    yield from _read(source, NEEDED)


def read_hard_positives(source: Path, subset: str | None = None) -> Iterator[SourceQuestion | DroppedRow]:
    """Read a hard-positives table, whose rows are paraphrases by strategy, the baseline among them."""
    yield from _read(source, NEEDED | HARD_POSITIVES)


def _read(source: Path, needed: Mapping[str, Sequence[str]]) -> Iterator[SourceQuestion | DroppedRow]:
    rows = read_rows(source)
    found = columns_of(rows)
    columns = match_columns(found, needed, OPTIONAL, str(source))
    if "image" not in columns:
        match_columns(found, {name: OPTIONAL[name] for name in ("dicom", "patient", "study")}, {}, str(source))
    groups: dict[tuple[str, ...], list[tuple[TableRow, dict[str, Any]]]] = {}
    for number, row in enumerate(rows):
        cells = {ours: row.cells.get(name) for ours, name in columns.items()}
        image = _image(cells)
        original = text_of(cells.get("original"))
        if image is None or text_of(cells["question"]) is None:
            yield DroppedRow(row.where, "no question" if image else "no image, or several images")
        else:
            cells["image"] = image
            key = (image, original) if original else (str(number),)
            groups.setdefault(key, []).append((row, cells))
    for number, members in enumerate(groups.values()):
        yield _source_question(number, members)


def _image(cells: Mapping[str, Any]) -> str | None:
    """The path of the image, as given or by MIMIC-CXR-JPG's layout; None if there is none, or more than one."""
    given = cells.get("image")
    if isinstance(given, str) and given.startswith("["):
        try:
            given = parse_json(given.replace("'", '"'))
        except ValueError:
            return None
    if isinstance(given, list):
        given = given[0] if len(given) == 1 else None
    dicom, patient, study = (text_of(cells.get(name)) for name in ("dicom", "patient", "study"))
    if given is not None:
        return text_of(given)
    if dicom is None or patient is None or study is None:
        return None
    patient, study = patient.lstrip("p"), study.lstrip("s")
    return f"files/p{patient[:2]}/p{patient}/s{study}/{dicom.removesuffix('.jpg')}.jpg"


def _source_question(number: int, members: Sequence[tuple[TableRow, dict[str, Any]]]) -> SourceQuestion:
    row, first = members[0]
    original = text_of(first.get("original")) or str(text_of(first["question"]))
    answer = text_of(first["answer"])
    paraphrases, dropped = [], []
    seen = {original.lower()}
    for _, cells in members:
        text = text_of(cells.get("variant")) or str(text_of(cells["question"]))
        if text.lower() in seen:
            continue
        seen.add(text.lower())
        given = text_of(cells["answer"])
        if (given or "").lower() != (answer or "").lower():
            dropped.append("paraphrase whose answer differs from the question's")
        elif (paraphrase := paraphrase_of(text, text_of(cells.get("strategy")))) is None:
            dropped.append("paraphrase without text")
        else:
            paraphrases.append(paraphrase)
    return SourceQuestion(
        where=row.where,
        id=str(number),
        image=first["image"],
        patient=text_of(first.get("patient")),
        type=text_of(first.get("type")),
        question=original,
        answer=answer,
        paraphrases=paraphrases,
        split=text_of(first.get("split")),
        dropped=tuple(dropped),
    )

"""VQA-RAD: rows that share a `qid_linked_id` are paraphrases, and `question_rephrase` is another wording.

Its own test rows (`phrase_type` test_*) show images that its training rows show too, so that split is not used. Here
the images of a MedPix case (`image_case_url`) stay together instead.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from interp.importing.records import DroppedRow, SourceQuestion, paraphrase_of
from interp.importing.table_files import TableRow, columns_of, match_columns, read_rows, text_of
from interp.questions.answers import ANSWER_SETS, normalize_answer

NEEDED = {"question": ("question",), "answer": ("answer",), "image": ("image_name", "image")}
OPTIONAL = {
    "id": ("qid", "qid_unique"),
    "link": ("qid_linked_id", "qid_linked"),
    "phrase": ("phrase_type", "qid_para"),
    "rephrase": ("question_rephrase", "q_rephase"),
    "type": ("question_type", "q_type"),
    "case": ("image_case_url", "imageid_case"),
}
TYPES = {"PRES": "presence", "ABN": "abnormality", "PLANE": "view", "POS": "location"}
"""VQA-RAD's question type -> ours. All other types are `other`, and so are views that no radiograph has."""


def read(source: Path, subset: str | None = None) -> Iterator[SourceQuestion | DroppedRow]:
    """Read VQA-RAD's public JSON file."""
    rows = read_rows(source)
    columns = match_columns(columns_of(rows), NEEDED, OPTIONAL, str(source))
    groups: dict[tuple[str, str], list[tuple[TableRow, dict[str, Any]]]] = {}
    for number, row in enumerate(rows):
        cells = {ours: row.cells.get(name) for ours, name in columns.items()}
        missing = next((name for name in NEEDED if text_of(cells[name]) is None), None)
        if missing:
            yield DroppedRow(row.where, f"no {missing}")
            continue
        key = (str(cells["image"]), text_of(cells.get("link")) or f"row {number}")
        groups.setdefault(key, []).append((row, cells))
    for number, members in enumerate(groups.values()):
        # The free-form question is the original, wherever it is in the file.
        members.sort(key=lambda member: "free" not in str(member[1].get("phrase") or "").lower())
        yield _source_question(number, members)


def _source_question(number: int, members: Sequence[tuple[TableRow, Mapping[str, Any]]]) -> SourceQuestion:
    row, first = members[0]
    question, answer = str(text_of(first["question"])), str(text_of(first["answer"]))
    type_ = _type(first, answer)
    paraphrases, dropped = [], []
    seen = {question.lower()}
    for _, cells in members:
        same = normalize_answer(str(text_of(cells["answer"])), type_) == normalize_answer(answer, type_)
        for text in (text_of(cells["question"]), text_of(cells.get("rephrase"))):
            if text is None or text.lower() in seen:
                continue
            seen.add(text.lower())
            if not same:
                dropped.append("paraphrase whose answer differs from the question's")
            elif (paraphrase := paraphrase_of(text)) is None:
                dropped.append("paraphrase without text")
            else:
                paraphrases.append(paraphrase)
    return SourceQuestion(
        where=row.where,
        id=text_of(first.get("id")) or str(number),
        image=str(text_of(first["image"])),
        patient=text_of(first.get("case")),
        type=type_,
        question=question,
        answer=answer,
        paraphrases=paraphrases,
        split=None,
        dropped=tuple(dropped),
    )


def _type(cells: Mapping[str, Any], answer: str) -> str:
    """Our type of a question: the first of its VQA-RAD types (`PRES, POS`) that we know and whose answers fit."""
    for name in str(cells.get("type") or "").upper().replace(";", ",").split(","):
        type_ = TYPES.get(name.strip())
        if type_ is not None:
            allowed = ANSWER_SETS[type_]
            if allowed is None or normalize_answer(answer, type_) in allowed:
                return type_
    return "other"

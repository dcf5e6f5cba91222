"""VQA-RAD: rows that share a `qid_linked_id` are paraphrases, and `question_rephrase` is another wording.

Its own test rows (`phrase_type` test_*) show images that its training rows show too, so that split is not used. Here
the images of a MedPix case (`image_case_url`) stay together instead.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from interp.importing.cells import answer_in, flag_in, image_in, text_of, texts_in
from interp.importing.records import DroppedRow, SourceQuestion, image_problem
from interp.importing.table_files import Source, TableRow, columns_of, match_columns, name_of, read_rows
from interp.importing.wordings import TWO_ANSWERS, Wording, merge_wordings
from interp.questions.answers import ANSWER_SETS, normalize_answer
from interp.questions.contradictions import words_of

NEEDED = {
    "question": ("question",),
    "answer": ("answer",),
    "image": ("image_name", "image", "images", "file_name", "img_name"),
}
OPTIONAL = {
    "id": ("qid", "qid_unique"),
    "link": ("qid_linked_id", "qid_linked"),
    "phrase": ("phrase_type", "qid_para"),
    "rephrase": ("question_rephrase", "q_rephase"),
    "type": ("question_type", "q_type"),
    "yes_no": ("answer_type", "a_type"),
    "relation": ("question_relation",),
    "case": ("image_case_url", "imageid_case"),
}
OTHER_MEANING = "paraphrase that asks for something else (question_relation)"
TYPES = {"PRES": "presence", "ABN": "abnormality", "PLANE": "view", "POS": "location"}
"""VQA-RAD's question type -> ours. All other types are `other`, and so are views that no radiograph has."""


def read(source: Source, subset: str | None = None) -> Iterator[SourceQuestion | DroppedRow]:
    """Read VQA-RAD's public JSON file, or a table made from it."""
    rows = read_rows(source)
    columns = match_columns(columns_of(rows, wordings=OPTIONAL["rephrase"]), NEEDED, OPTIONAL, name_of(source))
    groups: dict[tuple[Any, str], list[tuple[TableRow, dict[str, Any]]]] = {}
    for number, row in enumerate(rows):
        cells = {ours: row.cells.get(name) for ours, name in columns.items()}
        cells["image"], cells["answer"] = image_in(cells["image"]), answer_in(cells["answer"])
        problem = image_problem(cells["image"])
        problem = "no question" if text_of(cells["question"]) is None else problem
        if problem or cells["answer"] is None:
            yield DroppedRow(row.where, problem or "no answer")
            continue
        key = (cells["image"], text_of(cells.get("link")) or f"row {number}")
        groups.setdefault(key, []).append((row, cells))
    for number, members in enumerate(groups.values()):
        # The free-form question is the original, wherever it is in the file.
        members.sort(key=lambda member: "free" not in str(member[1].get("phrase") or "").lower())
        yield _source_question(number, members)


def _source_question(number: int, members: Sequence[tuple[TableRow, Mapping[str, Any]]]) -> SourceQuestion | DroppedRow:
    row, first = members[0]
    question, answer = str(text_of(first["question"])), first["answer"]
    yes_no = flag_in(first.get("yes_no"), first.get("type"))
    type_ = _type(first, question, answer, yes_no)
    wordings = [
        Wording(text, cells["answer"])
        for _, cells in members
        for text in (text_of(cells["question"]), *texts_in(cells.get("rephrase")))
        if text is not None
    ]
    # A relation is that of a linked question to the original: strict agreement, inversion, condition or subset.
    other = {
        words_of(text)
        for _, cells in members
        if "agreement" not in (text_of(cells.get("relation")) or "agreement").lower()
        for text in (str(text_of(cells["question"])), *texts_in(cells.get("rephrase")))
    } - {words_of(question)}
    wordings = [wording for wording in wordings if words_of(wording.text) not in other]
    merged = merge_wordings(question, wordings, type_, yes_no)
    if merged is None:
        return DroppedRow(row.where, TWO_ANSWERS)
    return SourceQuestion(
        where=row.where,
        id=text_of(first.get("id")) or str(number),
        image=first["image"],
        patient=text_of(first.get("case")),
        type=type_,
        question=question,
        answer=merged.answer,
        paraphrases=merged.paraphrases,
        split=None,
        yes_no=yes_no,
        dropped=merged.dropped + (OTHER_MEANING,) * len(other),
    )


def _type(cells: Mapping[str, Any], question: str, answer: str, yes_no: bool | None) -> str:
    """Our type of a question: the first of its VQA-RAD types (`PRES, POS`) that we know and whose answers fit."""
    for name in str(cells.get("type") or "").upper().replace(";", ",").split(","):
        type_ = TYPES.get(name.strip())
        if type_ is not None:
            allowed = ANSWER_SETS[type_]
            if allowed is None or normalize_answer(answer, type_, question, yes_no) in allowed:
                return type_
    return "other"

"""Turns a question of a data set into one of our format, and counts what cannot be kept."""

import re
from collections import Counter
from collections.abc import Iterable

from pydantic import ValidationError

from interp.importing.patients import patient_in_path
from interp.importing.question_types import our_type
from interp.importing.records import SourceQuestion
from interp.questions.answers import ANSWER_SETS, CLOSED_ANSWERS, normalize_answer
from interp.questions.contradictions import words_of
from interp.questions.polarity import OPERATORS, inverting_operator
from interp.questions.schema import LONGEST_TEXT, Paraphrase, Question
from interp.questions.splits import NamedSplit
from interp.questions.yes_no_form import question_form
from interp.schemas.import_report import ImportReport

# fmt: off
NAMED_ANSWERS = frozenset((
    "-1", "0", "1", "2", "none", "null", "na", "n/a", "unknown", "uncertain", "unclear", "unsure", "not sure",
    "maybe", "possible", "possibly", "probable", "probably", "likely", "unlikely", "equivocal", "indeterminate",
    "inconclusive", "not applicable", "not mentioned", "not stated", "not specified", "cannot be determined",
    "present", "absent", "positive", "negative", "normal", "abnormal", "left", "right", "both", "bilateral",
    "mild", "moderate", "severe", "small", "large", "yes and no", "yes/no", "yes, no", "no, yes",
))
# fmt: on
"""The answers that a report names. All others might hold what identifies a patient, so they are only counted."""


def to_question(source: SourceQuestion, image: str, split: NamedSplit | None, report: ImportReport) -> Question | None:
    """The question in our format, with the path of its image; None, counted in `report`, if it is not valid."""
    if len(source.question) > LONGEST_TEXT:
        report.drop(source.where, f"question of more than {LONGEST_TEXT} characters")
        return None
    type_ = _type(source)
    answer = None
    if source.answer is not None:
        answer = normalize_answer(source.answer, type_, source.question, source.yes_no)
        _count_other_answer(source, type_, answer, report)
    allowed = ANSWER_SETS[type_]
    if answer is not None and allowed is not None and answer not in allowed:
        report.drop(source.where, f"answer of a {type_} question is not {', '.join(sorted(allowed))}")
        return None
    paraphrases = _paraphrases(source, report)
    try:
        return Question(
            id=source.id,
            image=image,
            patient=source.patient or patient_in_path(image),
            type=type_,
            question=source.question,
            answer=answer,
            paraphrases=paraphrases,
            register=source.register,
            boxes=list(source.boxes),
            split=split,
        )
    except ValidationError as error:
        report.drop(source.where, f"field {str(error.errors()[0]['loc'][0])!r} is empty or not text")
        return None


def with_unique_ids(questions: Iterable[Question], report: ImportReport) -> list[Question]:
    """The questions, with a number added to every id that occurred before."""
    questions = list(questions)
    taken = {question.id for question in questions}
    seen: Counter[str] = Counter()
    renamed = 0
    unique = []
    for question in questions:
        seen[question.id] += 1
        if seen[question.id] > 1:
            while (free := f"{question.id}#{seen[question.id]}") in taken:
                seen[question.id] += 1
            taken.add(free)
            question = question.model_copy(update={"id": free})
            renamed += 1
        unique.append(question)
    if renamed:
        report.notes.append(f"{renamed} ids were used twice; a number was added to them")
    return unique


def _paraphrases(source: SourceQuestion, report: ImportReport) -> list[Paraphrase]:
    """The distinct wordings of a question, inverting ones tagged with their operator; counts both in `report`."""
    dropped = Counter(source.dropped)
    kept: list[Paraphrase] = []
    seen = {words_of(source.question)}
    for paraphrase in source.paraphrases:
        if words_of(paraphrase.text) in seen:
            dropped["paraphrase that repeats another wording"] += 1
            continue
        seen.add(words_of(paraphrase.text))
        operator = paraphrase.operator or inverting_operator(source.question, paraphrase.text)
        if operator is not None:
            # A file of our own format may contain any name, which could be private.
            known = operator if operator in OPERATORS else "another"
            report.inverted[known] = report.inverted.get(known, 0) + 1
        kept.append(paraphrase.model_copy(update={"operator": operator}))
    for reason, count in dropped.items():
        report.drop_paraphrases(reason, count)
    return kept


def _count_other_answer(source: SourceQuestion, type_: str, answer: str, report: ImportReport) -> None:
    """Count an answer to a yes/no question that is neither yes nor no, by itself only if it is one of a fixed list."""
    form = question_form(source.question)
    asked = source.yes_no or form == "yes-no" or type_ == "presence" or (form is None and answer in ("0", "1"))
    if answer not in CLOSED_ANSWERS and asked and form != "choice" and source.yes_no is not False:
        name = answer if answer in NAMED_ANSWERS else "another answer"
        report.other_answers[name] = report.other_answers.get(name, 0) + 1


def _type(source: SourceQuestion) -> str:
    """The source's type by our name, or else the type that the question's own words suggest."""
    given = our_type(source.type)
    if given is not None:
        return given
    form = question_form(source.question)
    if source.answer is None:
        closed = source.yes_no if source.yes_no is not None else form == "yes-no"
    else:
        answer = normalize_answer(source.answer, "other", source.question, source.yes_no)
        closed = answer in CLOSED_ANSWERS and form != "choice"
    if closed:
        return "abnormality" if re.search(r"abnormal|\bnormal\b", source.question.lower()) else "presence"
    return "other"

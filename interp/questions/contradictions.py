"""Contradictions: the same words about one image with two different true answers, of which at least one is wrong."""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from interp.questions.schema import Question

REMEMBERED = 2**14
"""Most texts of which the words are kept, because each question is compared with many others."""


class Consistent(NamedTuple):
    """Questions without contradictions, and what was left out to get there."""

    questions: list[Question]
    """The questions that are kept, in their order."""
    contradicted: list[int]
    """Positions of the questions that were left out, because their words have another answer elsewhere."""
    paraphrases: int
    """Number of paraphrases that were left out of kept questions, because they are a question with another answer."""


def without_contradictions(questions: Sequence[Question]) -> Consistent:
    """Leave out every question whose words have two true answers about its image, and paraphrases that repeat such.

    Words are compared without case and punctuation, answers in their normalized spelling.
    """
    answers: dict[tuple[str, str], set[str]] = {}
    images = [Path(question.image).as_posix() for question in questions]
    for question, image in zip(questions, images, strict=True):
        if question.true_answer is not None:
            answers.setdefault((image, words_of(question.question)), set()).add(question.true_answer)
    kept, contradicted, paraphrases = [], [], 0
    for position, (question, image) in enumerate(zip(questions, images, strict=True)):
        if len(answers.get((image, words_of(question.question)), ())) > 1:
            contradicted.append(position)
            continue
        true = question.true_answer
        wordings = [
            p
            for p in question.paraphrases
            if true is None or p.operator is not None or answers.get((image, words_of(p.text)), {true}) == {true}
        ]
        if len(wordings) < len(question.paraphrases):
            paraphrases += len(question.paraphrases) - len(wordings)
            question = question.model_copy(update={"paraphrases": wordings})
        kept.append(question)
    return Consistent(kept, contradicted, paraphrases)


@lru_cache(REMEMBERED)
def words_of(text: str) -> str:
    """The words of a text in lower case, by which wordings are compared; the text itself if it has none."""
    return re.sub(r"\W+", " ", text).strip().lower() or text


def one_sided(questions: Iterable[Question]) -> str | None:
    """The answer that all closed questions with a known answer have, if there are several such questions."""
    answers = [question.true_answer for question in questions if question.closed and question.answer is not None]
    return answers[0] if len(answers) > 1 and len(set(answers)) == 1 else None

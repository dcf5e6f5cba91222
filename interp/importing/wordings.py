"""The rows of a table that are wordings of one question: which answer is the question's, and which differ from it."""

from collections.abc import Sequence
from typing import NamedTuple

from interp.importing.records import paraphrase_of
from interp.questions.answers import normalize_answer
from interp.questions.contradictions import words_of
from interp.questions.polarity import inverting_operator
from interp.questions.schema import Paraphrase

TWO_ANSWERS = "two answers to one question"
"""The reason for which a question is left out whose rows disagree on its answer."""


class Wording(NamedTuple):
    """A row of a table: one wording of a question."""

    text: str
    """The wording."""
    answer: str | None
    """The answer that the row gives; None where it gives none."""
    phenomenon: str | None = None
    """What changed, as the source writes it; None where it does not say."""


class Merged(NamedTuple):
    """The wordings of one question."""

    answer: str | None
    """The answer of the question as the source writes it; None where no row has one."""
    paraphrases: list[Paraphrase]
    """Its other wordings that have the same answer."""
    dropped: tuple[str, ...]
    """The reasons why other wordings were left out, one per wording."""


def merge_wordings(original: str, wordings: Sequence[Wording], type_: str, yes_no: bool | None) -> Merged | None:
    """Merge the rows of a question whose original wording is `original`; None if they give it two answers.

    Rows that repeat the original decide on the answer, or else all rows whose wording does not invert the meaning. A
    row with another answer than the question's is left out, and so is a wording with two answers.
    """

    def spelled(answer: str | None) -> str | None:
        return None if answer is None else normalize_answer(answer, type_, original, yes_no)

    answers_of: dict[str, set[str | None]] = {}
    for wording in wordings:
        if wording.answer is not None:
            answers_of.setdefault(words_of(wording.text), set()).add(spelled(wording.answer))
    own = [w for w in wordings if words_of(w.text) == words_of(original) and w.answer is not None]
    deciding = own or [w for w in wordings if w.answer is not None and not inverting_operator(original, w.text)]
    if len({spelled(w.answer) for w in deciding}) > 1:
        return None
    answer = next((w.answer for w in deciding), None)
    paraphrases: list[Paraphrase] = []
    dropped: list[str] = []
    seen = {original.lower()}
    for wording in wordings:
        if wording.text.lower() in seen:
            continue
        seen.add(wording.text.lower())
        given = answers_of.get(words_of(wording.text), set())
        paraphrase = paraphrase_of(wording.text, wording.phenomenon)
        if given - {spelled(answer)}:
            several = len(given) > 1
            dropped.append(
                "paraphrase with two answers" if several else "paraphrase whose answer differs from the question's"
            )
        elif paraphrase is None:
            dropped.append("paraphrase without text")
        else:
            paraphrases.append(paraphrase)
    return Merged(answer, paraphrases, tuple(dropped))

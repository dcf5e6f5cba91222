"""Images on which the answer must differ: of other patients, about whom the same was asked with the opposite answer."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from interp.questions.answers import CLOSED_ANSWERS
from interp.questions.schema import Question

OPPOSITE = {"yes": "no", "no": "yes"}


class AskedPatients(NamedTuple):
    """The patients about whom one wording was asked with one answer."""

    patients: list[str]
    """The patients, each once, in ascending order."""
    images: list[list[str]]
    """The images of each patient, in ascending order."""


def opposite_images(questions: Sequence[Question], rng: np.random.Generator) -> list[str | None]:
    """For each of n questions an image on which one of its wordings has the opposite answer, drawn at random: [n].

    First a wording is drawn, then one of the other patients, then an image of theirs. None stands for open questions
    and for those without such a patient. Images of any other patient would leave half of balanced answers as they are:
    a loss on them would ask for a difference that does not exist, and a measure would mistake it for not looking.
    """
    asked = _asked(questions)
    return [_draw(question, asked, rng) for question in questions]


def _asked(questions: Iterable[Question]) -> dict[tuple[str, str], AskedPatients]:
    """(wording, answer) -> patients and images, for the closed questions."""
    found: dict[tuple[str, str], dict[str, set[str]]] = {}
    for question in questions:
        answer = question.true_answer
        if answer in CLOSED_ANSWERS:
            for text in _texts(question):
                patients = found.setdefault((text, answer), {})
                patients.setdefault(question.group, set()).add(question.image)
    return {
        key: AskedPatients(sorted(patients), [sorted(images) for _, images in sorted(patients.items())])
        for key, patients in found.items()
    }


def _draw(question: Question, asked: dict[tuple[str, str], AskedPatients], rng: np.random.Generator) -> str | None:
    opposite = OPPOSITE.get(question.true_answer or "")
    if opposite is None:
        return None
    pools = []
    for text in _texts(question):
        if pool := asked.get((text, opposite)):
            own = bisect_left(pool.patients, question.group)
            mine = own < len(pool.patients) and pool.patients[own] == question.group
            if len(pool.patients) > mine:
                pools.append((pool, own if mine else len(pool.patients)))
    if not pools:
        return None
    pool, own = pools[rng.integers(len(pools))]
    pick = rng.integers(len(pool.patients) - (own < len(pool.patients)))
    images = pool.images[pick + (pick >= own)]
    return images[rng.integers(len(images))]


def _texts(question: Question) -> list[str]:
    """The different wordings of a question in lower case, stripped, in ascending order."""
    return sorted({text.strip().lower() for text in (question.question, *(p.text for p in question.same_meaning))})

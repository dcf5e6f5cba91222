"""The plan of a training run: which questions, in which two wordings, in which step."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from interp.questions import Question


class Item(NamedTuple):
    """One question as it is trained on in one step."""

    image: str
    """Path of the image."""
    answer: str
    """The true answer."""
    original: str
    """The original wording."""
    paraphrase: str | None
    """Another wording, None where the question has no other."""


class Step(NamedTuple):
    """What one optimizer step learns from."""

    epoch: int
    """Counted from 0."""
    items: list[Item]
    """The global batch."""


def plan_steps(questions: Sequence[Question], epochs: int, batch_size: int, seed: int) -> list[Step]:
    """Every question once an epoch, in random order, with one random paraphrase of it.

    The steps of an epoch differ by at most one question, so that none is left with a remainder.
    """
    steps = []
    for epoch in range(epochs):
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(len(questions))
        for part in np.array_split(order, math.ceil(len(order) / batch_size)):
            steps.append(Step(epoch, [_item(questions[i], rng) for i in part]))
    return steps


def _item(question: Question, rng: np.random.Generator) -> Item:
    others = question.same_meaning
    chosen = others[rng.integers(len(others))].text if others else None
    if question.answer is None:
        raise ValueError("a question without an answer can not be trained on")
    return Item(question.image, question.answer, question.question, chosen)


def wordings(steps: Iterable[Step]) -> set[str]:
    """Every text that the plan trains on."""
    items = [item for step in steps for item in step.items]
    return {text for item in items for text in (item.original, item.paraphrase) if text is not None}

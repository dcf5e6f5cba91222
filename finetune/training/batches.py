"""The batches of a training: which questions, in which two wordings, in which step."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from finetune.lora.settings import Grounding
from interp.images.decode import BLANK_IMAGE
from interp.questions.opposite_images import opposite_images
from interp.questions.schema import Question
from interp.runtime.errors import InputError


class Item(NamedTuple):
    """One question in the form in which a step trains on it."""

    image: str
    """Path of the image."""
    answer: str
    """The true answer, in the normalized spelling in which the evaluation judges it."""
    original: str
    """The original wording."""
    paraphrase: str | None
    """Another wording; None if the question has no other."""
    closed: bool
    """Whether it asks for yes or no, and is prompted accordingly, as in the evaluation."""
    substitute: str | None = None
    """An image that should change the answer: BLANK_IMAGE or another patient's; None for no grounding term."""


class Step(NamedTuple):
    """The questions of one optimizer step."""

    epoch: int
    """Number of the epoch, from 0."""
    items: list[Item]
    """The batch, of all processes together."""


def training_steps(
    questions: Sequence[Question], epochs: int, batch_size: int, seed: int, grounding: Grounding = "none"
) -> list[Step]:
    """All steps of a training: every question once per epoch, in random order, with one random paraphrase.

    The sizes of the steps of an epoch differ by at most one question, so that no small remainder is left. Order and
    paraphrases do not depend on `grounding`. Raises InputError if the grounding term has no question to act on.
    """
    steps = []
    for epoch in range(epochs):
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(len(questions))
        substitutes = _substitutes(questions, grounding, np.random.default_rng([seed, epoch, 1]))
        for part in np.array_split(order, math.ceil(len(order) / batch_size)):
            steps.append(Step(epoch, [_item(questions[i], substitutes[i], rng) for i in part]))
    return steps


def _substitutes(questions: Sequence[Question], grounding: Grounding, rng: np.random.Generator) -> list[str | None]:
    """For each question an image that should change its answer, or None."""
    if grounding == "none":
        return [None] * len(questions)
    if grounding == "blank":
        found: list[str | None] = [BLANK_IMAGE if question.closed else None for question in questions]
    else:
        found = opposite_images(questions, rng)
    if not any(found):
        wanted = {"blank": "asks for yes or no", "swap": "is also asked of another patient with the opposite answer"}
        raise InputError(
            f"--grounding {grounding}: none of the {len(questions)} questions to train on {wanted[grounding]}, so "
            "the term has nothing to act on. Use other questions, or --grounding none."
        )
    return found


def _item(question: Question, substitute: str | None, rng: np.random.Generator) -> Item:
    others = question.same_meaning
    chosen = others[rng.integers(len(others))].text if others else None
    answer = question.true_answer
    if answer is None:
        raise ValueError("a question without an answer cannot be trained on")
    return Item(question.image, answer, question.question, chosen, question.closed, substitute)


def wordings(steps: Iterable[Step]) -> set[str]:
    """Every wording that these steps train on."""
    items = [item for step in steps for item in step.items]
    return {text for item in items for text in (item.original, item.paraphrase) if text is not None}

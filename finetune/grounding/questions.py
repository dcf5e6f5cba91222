"""The questions of a study, the wordings asked about each image, and the places of the lesions."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from finetune.grounding.map_scores import Floats, Region, region_of, shifted_region
from interp.images.boxes import moved, moved_away, unit_boxes
from interp.images.decode import open_image
from interp.images.other_patients import other_patients_images
from interp.questions.schema import Question
from interp.runtime.errors import InputError

RANDOM_BOXES = 20
"""Number of random places of the boxes that control a box score."""
RANDOM_REGIONS = 8
"""Number of random places away from the boxes that control their filling."""


class Lesion(NamedTuple):
    """The boxes of one question and control places for them; all boxes are in shares of the image."""

    boxes: Floats
    """[n, 4] boxes of the lesion: left, top, right, bottom."""
    region: Region
    """The boxes on the grid of image tokens."""
    controls: Mapping[str, Region]
    """`shifted`: the region moved by half the image's width, wrapping around; `random`: RANDOM_BOXES random places."""
    away: Floats
    """[up to RANDOM_REGIONS, n, 4] random places that hardly overlap the boxes."""


def select_questions(questions: Sequence[Question], any_answer: bool, limit: int | None) -> list[Question]:
    """Return the first `limit` closed questions with a lesion box whose true answer is yes, or any with `any_answer`.

    Raises InputError if there is none.
    """
    asked = [q for q in questions if q.closed and q.boxes and (any_answer or q.true_answer == "yes")]
    if not asked:
        raise InputError(
            f"None of the {len(questions)} questions is a yes/no question with 'boxes'"
            f"{'' if any_answer else ' whose true answer is yes'}, so there is nothing to study."
        )
    return asked[:limit]


def lesion_of(question: Question, side: int, rng: np.random.Generator) -> Lesion:
    """Place the lesion of a question on a grid of `side` x `side` cells.

    Raises InputError for boxes outside the image, and for an image that cannot be read.
    """
    try:
        boxes = unit_boxes(question.boxes, open_image(question.image).size)
    except InputError as error:
        # The coordinates identify the row without revealing the question.
        raise InputError(f"A lesion cannot be placed. {str(error)[0].upper()}{str(error)[1:]}") from None
    region = region_of(boxes, side)
    controls = {"shifted": shifted_region(region, side), "random": region_of(moved(boxes, RANDOM_BOXES, rng), side)}
    return Lesion(boxes, region, controls, moved_away(boxes, RANDOM_REGIONS, rng))


def wording_table(
    asked: Sequence[Question], questions: Sequence[Question], paraphrases: int, seed: int
) -> pd.DataFrame:
    """Return a table of every wording that is asked about an image: question, role, image, text, closed.

    `question` is a position in `asked`. The roles are `original`; `paraphrase`, for the first `paraphrases`;
    `other image`, the original asked about the image of another patient's question; and `other question`, another
    closed one of `questions` about the same image. The last two are absent where there is no such image or question.
    """
    rng = np.random.default_rng(seed)
    partners = other_patients_images([q.image for q in asked], [q.group for q in asked], rng)[:, 0]
    on_image: dict[str, list[Question]] = {}
    for question in questions:
        if question.closed:
            on_image.setdefault(question.image, []).append(question)
    rows = []
    for i, q in enumerate(asked):
        rows.append((i, "original", q.image, q.question))
        rows += [(i, "paraphrase", q.image, p.text) for p in q.same_meaning[:paraphrases]]
        if partners[i] is not None:
            rows.append((i, "other image", partners[i], q.question))
        others = [other.question for other in on_image[q.image] if other.id != q.id]
        if others:
            rows.append((i, "other question", q.image, others[rng.integers(len(others))]))
    return pd.DataFrame(rows, columns=["question", "role", "image", "text"]).assign(closed=True)

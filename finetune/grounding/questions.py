"""What is asked of which image, and where the lesions lie: everything that is settled before a model looks."""

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
"""Random places of the boxes beside a box score."""
RANDOM_REGIONS = 8
"""Random places beside the filled boxes, away from them."""


class Lesion(NamedTuple):
    """The boxes of one question, and where else they could lie; in shares of the image."""

    boxes: Floats
    """[n, 4]."""
    region: Region
    """Of the boxes."""
    controls: Mapping[str, Region]
    """shifted: half a width away, around the edge; random: RANDOM_BOXES places in the image."""
    away: Floats
    """[up to RANDOM_REGIONS, n, 4] places that hardly touch the boxes."""


def studied(questions: Sequence[Question], any_answer: bool, limit: int | None) -> list[Question]:
    """The closed questions with a lesion box that are truly answered yes, or with `any_answer` all; the first `limit`.

    Raises InputError if there is none.
    """
    asked = [q for q in questions if q.closed and q.boxes and (any_answer or q.true_answer == "yes")]
    if not asked:
        raise InputError(
            f"None of the {len(questions)} questions is a yes/no question with 'boxes'"
            f"{'' if any_answer else ' that is truly answered yes'}, so there is nothing to look for."
        )
    return asked[:limit]


def lesion_of(question: Question, side: int, rng: np.random.Generator) -> Lesion:
    """Where the lesion of a question is on a grid of `side` cells a side.

    Raises InputError for boxes outside the image, and for an image that can not be read.
    """
    try:
        boxes = unit_boxes(question.boxes, open_image(question.image).size)
    except InputError as error:
        # Coordinates find the row, and tell nothing of the question.
        raise InputError(f"A lesion can not be placed. {str(error)[0].upper()}{str(error)[1:]}") from None
    region = region_of(boxes, side)
    controls = {"shifted": shifted_region(region, side), "random": region_of(moved(boxes, RANDOM_BOXES, rng), side)}
    return Lesion(boxes, region, controls, moved_away(boxes, RANDOM_REGIONS, rng))


def asks_of(asked: Sequence[Question], questions: Sequence[Question], paraphrases: int, seed: int) -> pd.DataFrame:
    """Every wording that is put to an image: question (position in `asked`), role, image, text, closed.

    Roles: original; paraphrase, the first `paraphrases`; "other image", the original put to the image of another
    patient's question; "other question", another closed one of `questions` on the same image. The last two are absent
    where there is none.
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

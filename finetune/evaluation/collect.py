"""Collecting all answers of one arm: with the question's own image, with blanks and swapped images, and in words."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from finetune.evaluation.answers import Answers, closed_originals
from finetune.evaluation.engine import Engine
from interp.images.other_patients import other_patients_images
from interp.model.blank_images import BLANKS
from interp.model.prompts import first_answer_token
from interp.questions.generated_answers import begins_with_answer, parse_yes_no
from interp.questions.opposite_images import opposite_images
from interp.questions.published_parser import parse_as_published
from interp.questions.schema import Question
from interp.statistics import FloatArray

SWAPS = 3
"""Number of other patients whose images replace that of a question."""


class Swaps(NamedTuple):
    """The images that are shown in place of those of the closed original wordings."""

    random: NDArray[np.object_]
    """[closed originals, SWAPS] images of other patients; None if there is only one patient."""
    opposite: NDArray[np.object_] | None = None
    """[closed originals] an image of another patient about whom the same was asked with the opposite answer; None where
    there is none. Without the array no such images are shown."""


def swaps_of(questions: Sequence[Question], prompts: pd.DataFrame, seed: int) -> Swaps:
    """The swapped images of some questions, whose prompt table is `prompts`."""
    found = opposite_images(questions, np.random.default_rng([seed, 17]))
    closed = np.array([question.closed for question in questions], dtype=bool)
    return Swaps(swap_images(prompts, seed), np.array(found, dtype=object)[closed])


def swap_images(prompts: pd.DataFrame, seed: int) -> NDArray[np.object_]:
    """[closed originals, SWAPS] images of other patients; None if there is only one patient."""
    rows = prompts[closed_originals(prompts)]
    return other_patients_images(list(rows["image"]), list(rows["patient"]), np.random.default_rng(seed), SWAPS)


def collect_answers(
    engine: Engine,
    prompts: pd.DataFrame,
    swaps: Swaps,
    new_tokens: int,
    name: str,
    blanks: Mapping[str, str] = BLANKS,
) -> Answers:
    """Ask a model, in its present state, everything that an evaluation needs about a prompt table.

    `blanks` are the blank images to show, kind -> name; the engine must have prepared them. No answers are generated if
    `new_tokens` is 0. `name` labels the progress bars. Raises InputError as `interp.measurement.margins.measure` does.
    """
    measured = engine.first_tokens(prompts, name)
    closed, originals = prompts["closed"].to_numpy(bool), closed_originals(prompts)
    blank = {
        kind: _margins_at(engine, prompts, closed if kind == "grey" else originals, image, f"{name}, {kind} image")
        for kind, image in blanks.items()
    }
    swapped = np.full((len(prompts), SWAPS), np.nan)
    if swaps.random.size and swaps.random[0, 0] is not None:
        table = prompts[originals].loc[lambda rows: rows.index.repeat(SWAPS)].assign(image=swaps.random.ravel())
        swapped[originals] = engine.first_tokens(table, f"{name}, swapped images").margin.reshape(-1, SWAPS)
    opposite = None
    if swaps.opposite is not None:
        shown = originals.copy()
        shown[originals] = [image is not None for image in swaps.opposite]
        images = [image for image in swaps.opposite if image is not None]
        opposite = _margins_at(engine, prompts, shown, images, f"{name}, images of the opposite answer")
    right_token = right_tokens(engine.tokenizer, prompts, measured.top_token)
    said = _generated(engine, prompts, measured.top_token, new_tokens, name)
    return Answers(
        measured.margin, right_token, blank, swapped, said.parsed, said.right_sequence, said.published, opposite
    )


def _margins_at(
    engine: Engine, prompts: pd.DataFrame, rows: NDArray[np.bool_], image: str | list[str], description: str
) -> FloatArray:
    """[n] margins of the rows `rows` of the prompt table with another image or images; NaN elsewhere."""
    margin = np.full(len(prompts), np.nan)
    if rows.any():
        margin[rows] = engine.first_tokens(prompts[rows].assign(image=image), description).margin
    return margin


def right_tokens(tokenizer: Any, prompts: pd.DataFrame, top_token: NDArray[np.int64]) -> NDArray[np.bool_]:
    """[n] whether the most probable token is the first one of the true answer."""

    def word(token: int) -> str:
        """Ignore case and surrounding space, so that Yes, yes and ▁yes are one answer."""
        return tokenizer.decode([token]).strip().lower()

    true = {answer: word(first_answer_token(tokenizer, answer)) for answer in set(prompts["answer"].dropna())}
    given = [word(token) for token in top_token.tolist()]
    return np.array([g == true.get(answer) for g, answer in zip(given, prompts["answer"], strict=True)], dtype=bool)


class _Said(NamedTuple):
    """Generated answers, read: the fields of `Answers` of the same names."""

    parsed: NDArray[np.object_]
    right_sequence: FloatArray
    published: NDArray[np.object_]


def _generated(
    engine: Engine, prompts: pd.DataFrame, top_token: NDArray[np.int64], new_tokens: int, name: str
) -> _Said:
    """Generate answers and read them; the texts are not kept."""
    parsed, right = np.full(len(prompts), None, dtype=object), np.full(len(prompts), np.nan)
    published = parsed.copy()
    if not new_tokens:
        return _Said(parsed, right, published)
    tokenizer = engine.tokenizer
    answers = set(prompts["answer"].dropna())
    longest = max((len(tokenizer(answer, add_special_tokens=False)["input_ids"]) for answer in answers), default=1)
    # A model's own generation config may limit its answers further, as that of the embedded one does.
    count = min(max(new_tokens, longest), engine.own_limit or new_tokens + longest)
    if count == 1:
        texts = tokenizer.batch_decode(top_token[:, None], skip_special_tokens=True)
    else:
        texts = engine.answers(prompts, count, f"{name}, in words")
    for row, (text, answer, type_, closed) in enumerate(
        zip(texts, prompts["answer"], prompts["type"], prompts["closed"], strict=True)
    ):
        if closed:
            parsed[row], published[row] = parse_yes_no(text), parse_as_published(text)
        right[row] = isinstance(answer, str) and begins_with_answer(text, answer, type_)
    return _Said(parsed, right, published)

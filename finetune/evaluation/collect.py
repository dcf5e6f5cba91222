"""Asking one arm everything that an evaluation needs: with the image, without it, with another one, in words."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from finetune.evaluation.answers import Answers, closed_originals
from interp.images.other_patients import other_patients_images
from interp.measurement.generate import generate
from interp.measurement.margins import measure
from interp.model.blank_images import BLANKS
from interp.model.prompts import first_answer_token
from interp.model.vlm import Vlm
from interp.questions.answers import begins_with_answer, parse_yes_no
from interp.statistics import FloatArray

SWAPS = 3
"""Other patients whose images a question is asked on."""


def ask(vlm: Vlm, prompts: pd.DataFrame, others: NDArray[np.object_], new_tokens: int, name: str) -> Answers:
    """What the model as it stands answers to a prompt table.

    `others` [closed originals, SWAPS] are images of other patients (`images_of_others`). The blanks must have been
    encoded (`interp.model.blank_images.encode_blanks`). With `new_tokens` 0 no answers are generated. Raises
    InputError as
    `interp.measurement.margins.measure`.
    """
    seen = measure(vlm, prompts, description=name)
    closed, originals = prompts["closed"].to_numpy(bool), closed_originals(prompts)
    blank = {}
    for kind, image in BLANKS.items():
        rows = closed if kind == "grey" else originals
        blank[kind] = _margin(vlm, prompts, rows, prompts[rows].assign(image=image), f"{name}, {kind} image")
    swapped = np.full((len(prompts), SWAPS), np.nan)
    if others.size and others[0, 0] is not None:
        table = prompts[originals].loc[lambda rows: rows.index.repeat(SWAPS)].assign(image=others.ravel())
        margin = measure(vlm, table, description=f"{name}, others' images").margin.double().numpy()
        swapped[originals] = margin.reshape(-1, SWAPS)
    first = _right_token(vlm, prompts, seen.top_token)
    words = _in_words(vlm, prompts, seen.top_token, new_tokens, name)
    return Answers(seen.margin.double().numpy(), first, blank, swapped, *words)


def images_of_others(prompts: pd.DataFrame, seed: int) -> NDArray[np.object_]:
    """For every closed original of a prompt table, the images of SWAPS other patients; None if there is one only."""
    rows = prompts[closed_originals(prompts)]
    return other_patients_images(list(rows["image"]), list(rows["patient"]), np.random.default_rng(seed), SWAPS)


def _margin(vlm: Vlm, prompts: pd.DataFrame, rows: NDArray[np.bool_], table: pd.DataFrame, what: str) -> FloatArray:
    """[n] margins of `table`, the rows `rows` of a prompt table; NaN elsewhere."""
    margin = np.full(len(prompts), np.nan)
    if rows.any():
        margin[rows] = measure(vlm, table, description=what).margin.double().numpy()
    return margin


def _right_token(vlm: Vlm, prompts: pd.DataFrame, top_token: Tensor) -> NDArray[np.bool_]:
    tokenizer = vlm.processor.tokenizer

    def word(token: int) -> str:
        """A token without case and outer blanks, so that Yes, yes and ▁yes are one answer."""
        return tokenizer.decode([token]).strip().lower()

    true = {answer: word(first_answer_token(tokenizer, answer)) for answer in set(prompts["answer"].dropna())}
    said = [word(token) for token in top_token.tolist()]
    return np.array([s == true.get(answer) for s, answer in zip(said, prompts["answer"], strict=True)], dtype=bool)


def _in_words(
    vlm: Vlm, prompts: pd.DataFrame, top_token: Tensor, new_tokens: int, name: str
) -> tuple[NDArray[np.object_], NDArray[np.float64]]:
    """The generated answers, parsed where they are to be yes or no, and whether each begins with the true answer."""
    parsed, right = np.full(len(prompts), None, dtype=object), np.full(len(prompts), np.nan)
    if not new_tokens:
        return parsed, right
    tokenizer = vlm.processor.tokenizer
    answers = set(prompts["answer"].dropna())
    longest = max((len(tokenizer(answer, add_special_tokens=False)["input_ids"]) for answer in answers), default=1)
    # A model may say that its answers end sooner, as the embedded one's do.
    count = min(max(new_tokens, longest), vlm.model.generation_config.max_new_tokens or new_tokens + longest)
    if count == 1:
        said = tokenizer.batch_decode(top_token[:, None], skip_special_tokens=True)
    else:
        said = generate(vlm, prompts, count, description=f"{name}, in words")
    for row, (text, answer, type_, closed) in enumerate(
        zip(said, prompts["answer"], prompts["type"], prompts["closed"], strict=True)
    ):
        parsed[row] = parse_yes_no(text) if closed else None
        right[row] = isinstance(answer, str) and begins_with_answer(text, answer, type_)
    return parsed, right

"""Collecting all answers of one arm: with the question's own image, with blanks and swapped images, and in words."""

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
from interp.questions.generated_answers import begins_with_answer, parse_yes_no
from interp.statistics import FloatArray

SWAPS = 3
"""Number of other patients whose images replace that of a question."""


def collect_answers(vlm: Vlm, prompts: pd.DataFrame, swaps: NDArray[np.object_], new_tokens: int, name: str) -> Answers:
    """Ask the model, in its present state, everything that an evaluation needs about a prompt table.

    `swaps` [closed originals, SWAPS] are images of other patients (`swap_images`). The blank images must have been
    encoded before (`interp.model.blank_images.encode_blanks`). No answers are generated if `new_tokens` is 0. `name`
    labels the progress bars. Raises InputError as `interp.measurement.margins.measure` does.
    """
    measured = measure(vlm, prompts, description=name)
    closed, originals = prompts["closed"].to_numpy(bool), closed_originals(prompts)
    blank = {}
    for kind, image in BLANKS.items():
        rows = closed if kind == "grey" else originals
        blank[kind] = _margins_at(vlm, prompts, rows, prompts[rows].assign(image=image), f"{name}, {kind} image")
    swapped = np.full((len(prompts), SWAPS), np.nan)
    if swaps.size and swaps[0, 0] is not None:
        table = prompts[originals].loc[lambda rows: rows.index.repeat(SWAPS)].assign(image=swaps.ravel())
        margin = measure(vlm, table, description=f"{name}, swapped images").margin.double().numpy()
        swapped[originals] = margin.reshape(-1, SWAPS)
    right_token = _right_tokens(vlm, prompts, measured.top_token)
    parsed, right_sequence = _generated(vlm, prompts, measured.top_token, new_tokens, name)
    return Answers(measured.margin.double().numpy(), right_token, blank, swapped, parsed, right_sequence)


def swap_images(prompts: pd.DataFrame, seed: int) -> NDArray[np.object_]:
    """[closed originals, SWAPS] images of other patients; None if there is only one patient."""
    rows = prompts[closed_originals(prompts)]
    return other_patients_images(list(rows["image"]), list(rows["patient"]), np.random.default_rng(seed), SWAPS)


def _margins_at(
    vlm: Vlm, prompts: pd.DataFrame, rows: NDArray[np.bool_], table: pd.DataFrame, description: str
) -> FloatArray:
    """[n] margins of `table`, placed at the rows `rows` of the prompt table; NaN elsewhere."""
    margin = np.full(len(prompts), np.nan)
    if rows.any():
        margin[rows] = measure(vlm, table, description=description).margin.double().numpy()
    return margin


def _right_tokens(vlm: Vlm, prompts: pd.DataFrame, top_token: Tensor) -> NDArray[np.bool_]:
    """[n] whether the most probable token is the first one of the true answer."""
    tokenizer = vlm.processor.tokenizer

    def word(token: int) -> str:
        """Ignore case and surrounding space, so that Yes, yes and ▁yes are one answer."""
        return tokenizer.decode([token]).strip().lower()

    true = {answer: word(first_answer_token(tokenizer, answer)) for answer in set(prompts["answer"].dropna())}
    given = [word(token) for token in top_token.tolist()]
    return np.array([g == true.get(answer) for g, answer in zip(given, prompts["answer"], strict=True)], dtype=bool)


def _generated(
    vlm: Vlm, prompts: pd.DataFrame, top_token: Tensor, new_tokens: int, name: str
) -> tuple[NDArray[np.object_], NDArray[np.float64]]:
    """Generate answers; return each closed one parsed as yes or no, and whether each begins with the true answer."""
    parsed, right = np.full(len(prompts), None, dtype=object), np.full(len(prompts), np.nan)
    if not new_tokens:
        return parsed, right
    tokenizer = vlm.processor.tokenizer
    answers = set(prompts["answer"].dropna())
    longest = max((len(tokenizer(answer, add_special_tokens=False)["input_ids"]) for answer in answers), default=1)
    # A model's own generation config may limit its answers further, as that of the embedded one does.
    count = min(max(new_tokens, longest), vlm.model.generation_config.max_new_tokens or new_tokens + longest)
    if count == 1:
        texts = tokenizer.batch_decode(top_token[:, None], skip_special_tokens=True)
    else:
        texts = generate(vlm, prompts, count, description=f"{name}, in words")
    for row, (text, answer, type_, closed) in enumerate(
        zip(texts, prompts["answer"], prompts["type"], prompts["closed"], strict=True)
    ):
        parsed[row] = parse_yes_no(text) if closed else None
        right[row] = isinstance(answer, str) and begins_with_answer(text, answer, type_)
    return parsed, right

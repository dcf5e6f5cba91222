"""Flips: pairs of wordings of one question whose answers differ; and the two halves of the patients."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp.questions.schema import Question
from interp.runtime.errors import InputError


class Flips(NamedTuple):
    """Pairs (q, p) of the original wording of a closed question and a paraphrase, with their margins."""

    pairs: pd.DataFrame
    """Rows of `interp.questions.tables.pair_table`, re-indexed from 0."""
    margin_before: NDArray[np.float64]
    """Margin m(q) of the original wording [logits]."""
    margin_after: NDArray[np.float64]
    """Margin m(p) of the paraphrase [logits]."""
    flipped: NDArray[np.bool_]
    """Whether the margin changes sign."""
    banked: NDArray[np.bool_]
    """Whether the pair is in the flip bank: it flips, and both margins are at least the threshold from zero."""

    @classmethod
    def between(
        cls, pairs: pd.DataFrame, before: NDArray[np.float64], after: NDArray[np.float64], threshold: float
    ) -> "Flips":
        """Pairs with their margins [pairs]; `threshold` is the least |m| [logits] on both sides of the flip bank."""
        flipped = (before > 0) != (after > 0)
        banked = flipped & (np.abs(before) >= threshold) & (np.abs(after) >= threshold)
        return cls(pairs, before, after, flipped, banked)

    def take(self, rows: NDArray[np.bool_]) -> "Flips":
        """The pairs that the mask `rows` [pairs] selects."""
        return Flips(
            self.pairs[rows].reset_index(drop=True),
            self.margin_before[rows],
            self.margin_after[rows],
            self.flipped[rows],
            self.banked[rows],
        )


def sides(pairs: pd.DataFrame) -> tuple[Tensor, Tensor]:
    """Rows of the originals and of the paraphrases of some pairs in the prompt table: int64 [pairs] each."""
    original, paraphrase = (
        torch.from_numpy(pairs[name].to_numpy(np.int64, copy=True)) for name in ("original", "paraphrase")
    )
    return original, paraphrase


def questions_that_can_flip(questions: Sequence[Question]) -> list[Question]:
    """The yes/no questions that have paraphrases. Raises InputError if there are none."""
    found = [q for q in questions if q.closed and q.same_meaning]
    if not found:
        closed = sum(q.closed for q in questions)
        reworded = sum(bool(q.same_meaning) for q in questions)
        todo = "`interp paraphrase QUESTIONS --out NEW` adds some by rule." if closed else "Give such questions."
        raise InputError(
            f"Of {len(questions)} questions, {closed} ask for yes or no and {reworded} have paraphrases that mean the "
            f"same, but none has both, so nothing can flip. {todo}"
        )
    return found


def find_flips(prompts: pd.DataFrame, pairs: pd.DataFrame, margin: Tensor, threshold: float) -> Flips:
    """The pairs of closed questions with their margins.

    `margin` [n prompts] is in logits, and so is `threshold`, the least |m| on both sides of a pair of the flip bank.
    """
    closed = prompts["closed"].to_numpy(bool)[pairs["original"].to_numpy()]
    pairs = pairs[closed].reset_index(drop=True)
    m = margin.double().numpy()
    return Flips.between(pairs, m[pairs["original"].to_numpy()], m[pairs["paraphrase"].to_numpy()], threshold)


class Halves(NamedTuple):
    """The pairs of two disjoint halves of the patients."""

    selection: Flips
    """Pairs on which features are chosen."""
    held_out: Flips
    """Pairs on which the chosen features are tested."""

    @property
    def selection_bank(self) -> Flips:
        """The flip bank of the selection half."""
        return self.selection.take(self.selection.banked)

    @property
    def held_out_bank(self) -> Flips:
        """The flip bank of the held-out half."""
        return self.held_out.take(self.held_out.banked)


def split_halves(flips: Flips, seed: int) -> Halves:
    """Split the pairs by patient, as `selection_rows` draws them."""
    selection = selection_rows(flips, seed)
    return Halves(flips.take(selection), flips.take(~selection))


def filled_bank(half: Flips, enough: int) -> Flips:
    """The flip bank of a half; of fewer than `enough` pairs, with the other pairs of the largest |margin shift|.

    What turns few answers moves other margins, too, so these pairs show where it happens, with less noise.
    """
    size = np.where(half.banked, -1.0, np.abs(half.margin_before - half.margin_after))
    taken = half.banked.copy()
    missing = max(0, enough - int(taken.sum()))
    taken[np.argsort(-size, kind="stable")[:missing]] = True
    return half.take(taken)


def selection_rows(flips: Flips, seed: int) -> NDArray[np.bool_]:
    """Mask [pairs] of the selection half: half of the patients with banked flips and half of those without."""
    flippy = flips.pairs.assign(flipped=flips.banked).groupby("patient")["flipped"].any()
    rng = np.random.default_rng([seed, 7])
    half: set[object] = set()
    for value in (True, False):
        patients = flippy.index[flippy == value].to_numpy(copy=True)
        rng.shuffle(patients)
        half |= set(patients[: (len(patients) + 1) // 2])
    return flips.pairs["patient"].isin(half).to_numpy()


def sample_pairs(flips: Flips, count: int, seed: int) -> Flips:
    """At most `count` of the pairs, drawn at random."""
    drawn = np.zeros(len(flips.pairs), bool)
    drawn[np.random.default_rng([seed, 13]).permutation(len(drawn))[:count]] = True
    return flips.take(drawn)

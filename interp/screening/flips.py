"""Flips: pairs of wordings of one question whose answers differ."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor


class Flips(NamedTuple):
    """Pairs of a pair table, judged by their margins; one row a pair of a closed question."""

    pairs: pd.DataFrame
    """`interp.questions.tables.pair_table` rows of closed questions, re-indexed from 0."""
    margin_before: NDArray[np.float64]
    """m(q) [logits]."""
    margin_after: NDArray[np.float64]
    """m(p) [logits]."""
    flipped: NDArray[np.bool_]
    """The sign of the margin changed."""
    banked: NDArray[np.bool_]
    """Flipped, and both margins at least `threshold` from zero."""

    def take(self, rows: NDArray[np.bool_]) -> "Flips":
        """The same for some of the pairs."""
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


def find_flips(prompts: pd.DataFrame, pairs: pd.DataFrame, margin: Tensor, threshold: float) -> Flips:
    """Judge every pair of a closed question. `margin` [n prompts]; `threshold` [logits] bounds the flip bank."""
    closed = prompts["closed"].to_numpy(bool)[pairs["original"].to_numpy()]
    pairs = pairs[closed].reset_index(drop=True)
    m = margin.double().numpy()
    before, after = m[pairs["original"].to_numpy()], m[pairs["paraphrase"].to_numpy()]
    flipped = (before > 0) != (after > 0)
    banked = flipped & (np.abs(before) >= threshold) & (np.abs(after) >= threshold)
    return Flips(pairs, before, after, flipped, banked)

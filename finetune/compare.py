"""Base and adapter, or clamp, side by side: each measure, for each group of questions, with intervals and a test."""

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from finetune.texts import text_hash
from interp.statistics import Estimate, mcnemar_p, ratio_interval, sign_flip_p

Bools = NDArray[np.bool_]


class Arm(NamedTuple):
    """What one model, base or changed, did on the n rows of a prompt table."""

    margin: NDArray[np.float64]
    """[n] answer margin [logits]."""
    right_token: Bools
    """[n] whether the most probable first token is that of the true answer, whatever its case or leading space."""
    blank_margin: NDArray[np.float64]
    """[n] answer margin with a blank image [logits]; NaN where it was not measured."""


class Subset(NamedTuple):
    """A group of wordings and of pairs."""

    kind: str
    """all, phrasings, type or phenomenon."""
    name: str
    """Which one of its kind."""
    prompts: Bools
    """[n] the rows of the prompt table."""
    pairs: Bools
    """[m] the rows of the pair table."""


class Units(NamedTuple):
    """The k values that a measure is the mean of."""

    values: NDArray[np.float64]
    """[k]."""
    patients: NDArray[np.object_]
    """[k] whom each value comes from."""


class Comparison(NamedTuple):
    """One measure in one group of questions, base against the second arm: adapter, clamp or both."""

    kind: str
    """Kind of the subset."""
    subset: str
    """Name of the subset."""
    measure: str
    """A key of MEASURES."""
    n: int
    """Number of values: questions, pairs or wordings."""
    patients: int
    """Number of patients, or of images where patients are unknown."""
    base: Estimate
    """Of the base."""
    adapter: Estimate
    """Of the second arm, whatever it is."""
    difference: Estimate
    """Second arm - base, paired."""
    test: str
    """The paired test: mcnemar (exact, over questions) or sign-flip (over patients)."""
    p: float
    """Its two-sided p value."""


def _question_flips(prompts: pd.DataFrame, pairs: pd.DataFrame, arm: Arm, subset: Subset) -> Units:
    chosen = pairs[subset.pairs].assign(flipped=_flipped(pairs, arm)[subset.pairs])
    questions = chosen.groupby("question", sort=True).agg(flipped=("flipped", "any"), patient=("patient", "first"))
    return Units(questions["flipped"].to_numpy(float), questions["patient"].to_numpy(object))


def _pair_flips(prompts: pd.DataFrame, pairs: pd.DataFrame, arm: Arm, subset: Subset) -> Units:
    return Units(_flipped(pairs, arm)[subset.pairs].astype(float), pairs["patient"].to_numpy(object)[subset.pairs])


def _margin_difference(prompts: pd.DataFrame, pairs: pd.DataFrame, arm: Arm, subset: Subset) -> Units:
    shift = np.abs(arm.margin[pairs["original"].to_numpy()] - arm.margin[pairs["paraphrase"].to_numpy()])
    return Units(shift[subset.pairs], pairs["patient"].to_numpy(object)[subset.pairs])


def _accuracy(prompts: pd.DataFrame, pairs: pd.DataFrame, arm: Arm, subset: Subset) -> Units:
    return _of_prompts(
        prompts, _correct(prompts, arm), subset.prompts & _answered(prompts) & prompts["closed"].to_numpy()
    )


def _original_accuracy(prompts: pd.DataFrame, pairs: pd.DataFrame, arm: Arm, subset: Subset) -> Units:
    return _of_prompts(prompts, _correct(prompts, arm), subset.prompts & _answered(prompts) & closed_originals(prompts))


def _first_token_accuracy(prompts: pd.DataFrame, pairs: pd.DataFrame, arm: Arm, subset: Subset) -> Units:
    return _of_prompts(prompts, arm.right_token, subset.prompts & _answered(prompts))


def _text_only_agreement(prompts: pd.DataFrame, pairs: pd.DataFrame, arm: Arm, subset: Subset) -> Units:
    same = (arm.margin > 0) == (arm.blank_margin > 0)
    return _of_prompts(prompts, same, subset.prompts & closed_originals(prompts))


MEASURES: dict[str, Callable[[pd.DataFrame, pd.DataFrame, Arm, Subset], Units]] = {
    "question_flip_rate": _question_flips,
    "pairwise_flip_rate": _pair_flips,
    "margin_difference": _margin_difference,
    "accuracy": _accuracy,
    "original_accuracy": _original_accuracy,
    "first_token_accuracy": _first_token_accuracy,
    "text_only_agreement": _text_only_agreement,
}
"""Measure -> its values: shares, but for margin_difference in logits.

question_flip_rate: closed questions with a flipped paraphrase. pairwise_flip_rate: flipped (question, paraphrase)
pairs. margin_difference: mean |m(q) - m(p)| over those pairs. accuracy: right sign of the margin, closed questions,
all wordings. original_accuracy: the same, original wording only. first_token_accuracy: right most probable token, all
types and wordings. text_only_agreement: closed questions, original wording, whose answer stays with a blank image.
"""

MCNEMAR = frozenset({"question_flip_rate", "original_accuracy"})
"""Measures with one yes or no a question, tested by McNemar; the others by sign flips over patients."""


def closed_originals(prompts: pd.DataFrame) -> Bools:
    """[n] the original wordings of closed questions."""
    return (prompts["closed"] & (prompts["variant"] == 0)).to_numpy(bool)


def _flipped(pairs: pd.DataFrame, arm: Arm) -> Bools:
    return (arm.margin[pairs["original"].to_numpy()] > 0) != (arm.margin[pairs["paraphrase"].to_numpy()] > 0)


def _answered(prompts: pd.DataFrame) -> Bools:
    return prompts["answer"].notna().to_numpy(bool)


def _correct(prompts: pd.DataFrame, arm: Arm) -> Bools:
    return (arm.margin > 0) == (prompts["answer"] == "yes").to_numpy()


def _of_prompts(prompts: pd.DataFrame, values: NDArray, rows: Bools) -> Units:
    return Units(values[rows].astype(float), prompts["patient"].to_numpy(object)[rows])


def subsets_of(prompts: pd.DataFrame, pairs: pd.DataFrame, known: Collection[str] | None) -> list[Subset]:
    """All questions, then by phrasings, type and phenomenon.

    `pairs` are those of closed questions. `known` are the hashes of the training texts: a wording is seen if its hash
    is among them, a pair if both of its wordings are, and everything else is unseen. With None (unknown) there is no
    split by phrasings. Groups by phenomenon have pairs only.
    """
    everything = Subset("all", "all", np.ones(len(prompts), bool), np.ones(len(pairs), bool))
    before, after = pairs["original"].to_numpy(), pairs["paraphrase"].to_numpy()
    subsets = [everything]
    if known is not None:
        seen = np.array([text_hash(text) in known for text in prompts["text"]], dtype=bool)
        pair_seen = seen[before] & seen[after]
        subsets += [Subset("phrasings", "seen", seen, pair_seen), Subset("phrasings", "unseen", ~seen, ~pair_seen)]
    for name in dict.fromkeys(prompts["type"]):
        rows = (prompts["type"] == name).to_numpy(bool)
        subsets.append(Subset("type", name, rows, rows[before]))
    for name in sorted(set(pairs["phenomenon"])):
        chosen = (pairs["phenomenon"] == name).to_numpy(bool)
        subsets.append(Subset("phenomenon", name, np.zeros(len(prompts), bool), chosen))
    return subsets


def compare(
    prompts: pd.DataFrame, pairs: pd.DataFrame, base: Arm, adapter: Arm, subsets: Sequence[Subset], seed: int
) -> list[Comparison]:
    """Every measure in every subset in which it has a value."""
    found = []
    for subset in subsets:
        for name, units_of in MEASURES.items():
            before, after = (units_of(prompts, pairs, arm, subset) for arm in (base, adapter))
            if len(before.values):
                found.append(_comparison(subset, name, before, after, seed))
    return found


def _comparison(subset: Subset, measure: str, before: Units, after: Units, seed: int) -> Comparison:
    change = after.values - before.values
    patients = before.patients.tolist()
    if measure in MCNEMAR:
        test, p = "mcnemar", mcnemar_p(before.values > 0, after.values > 0)
    else:
        test, p = "sign-flip", sign_flip_p(change, patients, seed)
    return Comparison(
        kind=subset.kind,
        subset=subset.name,
        measure=measure,
        n=len(change),
        patients=len(set(patients)),
        base=_mean(before.values, patients, seed),
        adapter=_mean(after.values, patients, seed),
        difference=_mean(change, patients, seed),
        test=test,
        p=p,
    )


def _mean(values: NDArray[np.float64], patients: Sequence[object], seed: int) -> Estimate:
    """The mean with a cluster-bootstrap interval, summed within patients first so that memory follows their number."""
    names, member = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    counts = np.bincount(member).astype(float)
    sums = np.bincount(member, weights=values).astype(float)
    return ratio_interval(sums, counts, names.tolist(), seed)

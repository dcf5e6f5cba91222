"""The measures of an evaluation, each the units it is made of and the statistic over them."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from finetune.evaluation.answers import (
    Answers,
    Bools,
    EvaluationTable,
    SamplingUnits,
    answer_known,
    blank_agreement,
    closed_originals,
    correct_by_margin,
    flipped,
    gradable,
    says_yes,
    swap_change_rate,
    truly_yes,
)
from finetune.evaluation.quadrants import QUADRANTS, originals_with_pairs, quadrant_of
from interp.model.blank_images import BLANKS
from interp.statistics import FloatArray, Statistic, mean_of_totals

ECE_BINS = 15
"""Equal bins of the confidence in [.5, 1], as many as in Guo et al. (arXiv 1706.04599) over [0, 1]."""
SCORE_BINS = 512
"""Ranks that an AUC tells apart; exact for as many wordings, else within 1e-3."""


class Measure(NamedTuple):
    """A number that an evaluation gives for each arm."""

    units: Callable[[EvaluationTable, Answers], SamplingUnits]
    """The units and their columns."""
    unit: Literal["%", "logits", ""]
    """Of the number; a share is shown in percent."""
    statistic: Statistic = mean_of_totals
    """From column totals to the number."""
    mcnemar: bool = False
    """Whether it is one yes or no a question, the same questions in both arms; else it is tested by permutation."""


def _mean(values: NDArray, patients: pd.Series | NDArray) -> SamplingUnits:
    """SamplingUnits of a plain mean."""
    values = np.asarray(values, float)
    return SamplingUnits(np.stack([values, np.ones(len(values))], axis=1), list(patients))


def _of_prompts(sheet: EvaluationTable, values: NDArray, rows: Bools) -> SamplingUnits:
    rows = rows & sheet.subset.prompts
    return _mean(np.asarray(values)[rows], sheet.prompts["patient"].to_numpy(object)[rows])


def _of_pairs(sheet: EvaluationTable, values: NDArray) -> SamplingUnits:
    rows = sheet.subset.pairs
    return _mean(np.asarray(values)[rows], sheet.pairs["patient"].to_numpy(object)[rows])


def _question_flips(sheet: EvaluationTable, margin: FloatArray) -> SamplingUnits:
    """Of each question with a pair in the subset, whether one of its pairs flips."""
    chosen = sheet.pairs[sheet.subset.pairs].assign(flipped=flipped(sheet.pairs, margin)[sheet.subset.pairs])
    questions = chosen.groupby("question", sort=True).agg(flipped=("flipped", "any"), patient=("patient", "first"))
    return _mean(questions["flipped"].to_numpy(float), questions["patient"].to_numpy(object))


def _wordings(sheet: EvaluationTable, margin: FloatArray) -> pd.DataFrame:
    """Margin and answer of every wording in the subset of the closed questions that have two or more there."""
    rows = sheet.subset.prompts & sheet.prompts["closed"].to_numpy(bool)
    found = sheet.prompts[rows][["question", "patient"]].assign(margin=margin[rows], yes=says_yes(margin)[rows])
    return found[found.groupby("question")["margin"].transform("size") > 1]


def _symmetric_flips(sheet: EvaluationTable, answers: Answers) -> SamplingUnits:
    """Of each question, the share of pairs of its wordings that are answered differently."""
    by_question = _wordings(sheet, answers.margin).groupby("question", sort=True)
    yes, n = by_question["yes"].sum().to_numpy(float), by_question.size().to_numpy(float)
    return _mean(2 * yes * (n - yes) / (n * (n - 1)), by_question["patient"].first())


def _spread(sheet: EvaluationTable, answers: Answers) -> SamplingUnits:
    """Of each question: squared deviations and degrees of freedom within it, its mean margin and that squared, 1."""
    by_question = _wordings(sheet, answers.margin).groupby("question", sort=True)
    n, mean = by_question.size().to_numpy(float), by_question["margin"].mean().to_numpy(float)
    within = by_question["margin"].var(ddof=1).to_numpy(float) * (n - 1)
    columns = np.stack([within, n - 1, mean, mean**2, np.ones(len(n))], axis=1)
    return SamplingUnits(columns, list(by_question["patient"].first()))


def _dispersion(totals: FloatArray) -> FloatArray:
    """Standard deviation of the margin within questions over that between them."""
    within, freedom, mean, square, n = np.moveaxis(totals, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        between = np.maximum(square / n - (mean / n) ** 2, 0)
        return np.sqrt(within / freedom) / np.sqrt(np.where(between > 0, between, np.nan))


def _original_accuracy(sheet: EvaluationTable, answers: Answers) -> SamplingUnits:
    return _of_prompts(
        sheet, correct_by_margin(sheet.prompts, answers), answer_known(sheet.prompts) & closed_originals(sheet.prompts)
    )


def _by_class(sheet: EvaluationTable, answers: Answers) -> SamplingUnits:
    """Of each judged wording: right and of yes, of yes, right and of no, of no."""
    rows = gradable(sheet.prompts) & sheet.subset.prompts
    right, yes = correct_by_margin(sheet.prompts, answers)[rows], truly_yes(sheet.prompts)[rows]
    columns = np.stack([right & yes, yes, right & ~yes, ~yes], axis=1).astype(float)
    return SamplingUnits(columns, list(sheet.prompts["patient"].to_numpy(object)[rows]))


def _balanced(totals: FloatArray) -> FloatArray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return (totals[..., 0] / totals[..., 1] + totals[..., 2] / totals[..., 3]) / 2


def _by_rank(sheet: EvaluationTable, answers: Answers) -> SamplingUnits:
    """Of each judged wording, its margin's rank among SCORE_BINS, one-hot: first those of yes, then those of no."""
    from scipy.stats import rankdata

    rows = gradable(sheet.prompts) & sheet.subset.prompts
    yes, n = truly_yes(sheet.prompts)[rows], int(rows.sum())
    bins = min(n, SCORE_BINS)
    place = ((rankdata(answers.margin[rows]) - 0.5) * bins / max(n, 1)).astype(int)
    columns = np.zeros((n, 2 * bins))
    columns[np.arange(n), place + np.where(yes, 0, bins)] = 1
    return SamplingUnits(columns, list(sheet.prompts["patient"].to_numpy(object)[rows]))


def _auc(totals: FloatArray) -> FloatArray:
    """Share of (yes, no) pairs in which yes ranks higher; ties count half."""
    yes, no = np.split(totals, 2, axis=-1)
    below = np.cumsum(no, -1) - no / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return (yes * below).sum(-1) / (yes.sum(-1) * no.sum(-1))


def confidence(margin: FloatArray) -> FloatArray:
    """Probability of the given answer, of the two answers' tokens alone: sigmoid |m|."""
    return 1 / (1 + np.exp(-np.abs(margin)))


def confidence_bin(margin: FloatArray) -> NDArray[np.intp]:
    """Which of ECE_BINS equal bins of [.5, 1] the confidence falls into."""
    return np.minimum(((confidence(margin) - 0.5) * 2 * ECE_BINS).astype(int), ECE_BINS - 1)


def _by_confidence(sheet: EvaluationTable, answers: Answers) -> SamplingUnits:
    """Of each judged wording, one-hot by bin: right - confidence, then 1."""
    rows = gradable(sheet.prompts) & sheet.subset.prompts
    margin, right = answers.margin[rows], correct_by_margin(sheet.prompts, answers)[rows]
    columns = np.zeros((len(margin), 2 * ECE_BINS))
    each, place = np.arange(len(margin)), confidence_bin(margin)
    columns[each, place], columns[each, place + ECE_BINS] = right - confidence(margin), 1
    return SamplingUnits(columns, list(sheet.prompts["patient"].to_numpy(object)[rows]))


def _calibration_error(totals: FloatArray) -> FloatArray:
    """Expected calibration error: mean |accuracy - confidence| over bins, weighted by their size."""
    gap, n = np.split(totals, 2, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.abs(gap).sum(-1) / n.sum(-1)


def _text_only(*kinds: str) -> Callable[[EvaluationTable, Answers], SamplingUnits]:
    def units(sheet: EvaluationTable, answers: Answers) -> SamplingUnits:
        return _of_prompts(sheet, blank_agreement(answers, kinds), closed_originals(sheet.prompts))

    return units


def _blank_margin(sheet: EvaluationTable, answers: Answers) -> SamplingUnits:
    size = np.abs(np.stack([answers.blank_margin[kind] for kind in BLANKS])).mean(0)
    return _of_prompts(sheet, size, closed_originals(sheet.prompts))


def _swap_sensitivity(sheet: EvaluationTable, answers: Answers) -> SamplingUnits:
    change = swap_change_rate(answers)
    return _of_prompts(sheet, change, closed_originals(sheet.prompts) & ~np.isnan(change))


def _share_of(quadrant: int) -> Callable[[EvaluationTable, Answers], SamplingUnits]:
    def units(sheet: EvaluationTable, answers: Answers) -> SamplingUnits:
        pairs = sheet.pairs[sheet.subset.pairs]
        there = quadrant_of(sheet.prompts, pairs, answers, "grey") == quadrant
        return _mean(there, sheet.prompts["patient"][originals_with_pairs(sheet.prompts, pairs)])

    return units


def _first_token(sheet: EvaluationTable, answers: Answers) -> SamplingUnits:
    return _of_prompts(sheet, answers.right_token, answer_known(sheet.prompts))


def _sequence(sheet: EvaluationTable, answers: Answers) -> SamplingUnits:
    return _of_prompts(sheet, answers.right_sequence, answer_known(sheet.prompts) & ~np.isnan(answers.right_sequence))


def _generated_closed(sheet: EvaluationTable, answers: Answers) -> Bools:
    return sheet.prompts["closed"].to_numpy(bool) & ~np.isnan(answers.right_sequence)


def _spoken(answers: Answers) -> Bools:
    return np.array([word is not None for word in answers.parsed], dtype=bool)


def _excluded(sheet: EvaluationTable, answers: Answers) -> SamplingUnits:
    return _of_prompts(sheet, ~_spoken(answers), _generated_closed(sheet, answers))


def _parsed_accuracy(sheet: EvaluationTable, answers: Answers) -> SamplingUnits:
    rows = _generated_closed(sheet, answers) & answer_known(sheet.prompts) & _spoken(answers)
    return _of_prompts(sheet, answers.parsed == sheet.prompts["answer"].to_numpy(object), rows)


def _parsed_agreement(sheet: EvaluationTable, answers: Answers) -> SamplingUnits:
    said = np.where(says_yes(answers.margin), "yes", "no").astype(object)
    return _of_prompts(sheet, answers.parsed == said, _generated_closed(sheet, answers) & _spoken(answers))


def _parsed_flips(sheet: EvaluationTable, answers: Answers) -> SamplingUnits:
    """Of each pair of which both answers could be parsed, whether they differ."""
    before, after = (sheet.pairs[name].to_numpy() for name in ("original", "paraphrase"))
    spoken = _spoken(answers)
    rows = sheet.subset.pairs & spoken[before] & spoken[after]
    differ = answers.parsed[before] != answers.parsed[after]
    return _mean(differ[rows], sheet.pairs["patient"].to_numpy(object)[rows])


def _margin_shift(sheet: EvaluationTable, answers: Answers) -> SamplingUnits:
    before, after = (answers.margin[sheet.pairs[name].to_numpy()] for name in ("original", "paraphrase"))
    return _of_pairs(sheet, np.abs(before - after))


MEASURES: dict[str, Measure] = {
    "question_flip_rate": Measure(lambda s, a: _question_flips(s, a.margin), "%", mcnemar=True),
    "pairwise_flip_rate": Measure(lambda s, a: _of_pairs(s, flipped(s.pairs, a.margin)), "%"),
    "symmetric_flip_rate": Measure(_symmetric_flips, "%"),
    "margin_difference": Measure(_margin_shift, "logits"),
    "margin_dispersion": Measure(_spread, "", _dispersion),
    "accuracy": Measure(lambda s, a: _of_prompts(s, correct_by_margin(s.prompts, a), gradable(s.prompts)), "%"),
    "original_accuracy": Measure(_original_accuracy, "%", mcnemar=True),
    "balanced_accuracy": Measure(_by_class, "%", _balanced),
    "margin_auc": Measure(_by_rank, "", _auc),
    "calibration_error": Measure(_by_confidence, "%", _calibration_error),
    "first_token_accuracy": Measure(_first_token, "%"),
    "sequence_accuracy": Measure(_sequence, "%"),
    "text_only_agreement": Measure(_text_only(*BLANKS), "%"),
    **{f"text_only_agreement_{kind}": Measure(_text_only(kind), "%") for kind in BLANKS},
    "blank_margin": Measure(_blank_margin, "logits"),
    "swap_sensitivity": Measure(_swap_sensitivity, "%"),
    "blank_flip_rate": Measure(lambda s, a: _question_flips(s, a.blank_margin["grey"]), "%", mcnemar=True),
    **{name: Measure(_share_of(i), "%", mcnemar=True) for i, name in enumerate(QUADRANTS)},
    "parsed_flip_rate": Measure(_parsed_flips, "%"),
    "parsed_accuracy": Measure(_parsed_accuracy, "%"),
    "parsed_agreement": Measure(_parsed_agreement, "%"),
    "unparsed": Measure(_excluded, "%"),
}
"""Name -> measure, in the order in which they are shown.

question_flip_rate: closed questions with a flipped paraphrase; it grows with their number. pairwise_flip_rate: flipped
(question, paraphrase) pairs. symmetric_flip_rate: chance that two wordings of a question differ, none being first.
margin_difference: mean |m(q) - m(p)| over the pairs. margin_dispersion: standard deviation of the margin within
questions over that between them; no threshold, and shrinking all margins does not make it smaller.

accuracy: right sign of the margin, closed questions, all wordings. original_accuracy: the same, original wording.
balanced_accuracy: mean of that of the yes and of the no questions. margin_auc: chance that a yes question has a greater
margin than a no question. calibration_error: of sigmoid |m| against being right; resampling makes any model look worse,
so its interval lies high. first_token_accuracy: right most probable token, all types and wordings. sequence_accuracy:
generated answer begins with the whole true answer.

text_only_agreement: original wordings of closed questions whose answer stays without the image, mean over four blanks;
then each blank alone. blank_margin: mean |m| with the four blanks, how sure the model is of what it can not see; where
it is small, the measures by sign are tosses of a coin. swap_sensitivity: whose answer changes with other patients'
images. blank_flip_rate: question_flip_rate with the grey blank. ideal, fragile, dangerous, worst: the four quadrants, a
question resting on the image if its answer changes with the grey blank (finetune.evaluation.quadrants).

parsed_*: of the generated answers by keywords, where they say yes or no: pairs that differ, right ones, ones that agree
with the margin. unparsed: those that say neither or both, excluded from the former.
"""

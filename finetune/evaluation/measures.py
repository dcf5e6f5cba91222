"""The measures of an evaluation: for each its definition, the units it samples and the statistic over them."""

import numpy as np
import pandas as pd

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
    has_opposite,
    opposite_margin,
    says_yes,
    swap_change_rate,
    truly_yes,
)
from finetune.evaluation.measure import Measure, UnitsOf, any_of_question, mean_units, over_pairs, over_prompts
from finetune.evaluation.published_measures import PUBLISHED
from finetune.evaluation.quadrants import QUADRANTS, originals_with_pairs, quadrant_of
from finetune.evaluation.reliability import ECE_BINS, confidence, confidence_bin
from interp.model.blank_images import BLANKS
from interp.statistics import FloatArray, midranks

SCORE_BINS = 512
"""Number of ranks that an AUC distinguishes. It is exact for up to as many wordings, else accurate to 1e-3."""


def _wordings(table: EvaluationTable, margin: FloatArray) -> pd.DataFrame:
    """Margin and answer of the subset's wordings, for closed questions with at least two wordings in the subset."""
    rows = table.subset.prompts & table.prompts["closed"].to_numpy(bool)
    found = table.prompts[rows][["question", "patient"]].assign(margin=margin[rows], yes=says_yes(margin)[rows])
    return found[found.groupby("question")["margin"].transform("size") > 1]


def _symmetric_flips(table: EvaluationTable, answers: Answers) -> SamplingUnits:
    """For each question, the share of pairs of its wordings that get different answers."""
    by_question = _wordings(table, answers.margin).groupby("question", sort=True)
    yes, n = by_question["yes"].sum().to_numpy(float), by_question.size().to_numpy(float)
    return mean_units(2 * yes * (n - yes) / (n * (n - 1)), by_question["patient"].first())


def _spread(table: EvaluationTable, answers: Answers) -> SamplingUnits:
    """For each question: squared deviations and degrees of freedom within it, mean margin, its square, and 1."""
    by_question = _wordings(table, answers.margin).groupby("question", sort=True)
    n, mean = by_question.size().to_numpy(float), by_question["margin"].mean().to_numpy(float)
    within = by_question["margin"].var(ddof=1).to_numpy(float) * (n - 1)
    columns = np.stack([within, n - 1, mean, mean**2, np.ones(len(n))], axis=1)
    return SamplingUnits(columns, list(by_question["patient"].first()))


def _dispersion(totals: FloatArray) -> FloatArray:
    """Standard deviation of the margin within questions divided by that between them."""
    within, freedom, mean, square, n = np.moveaxis(totals, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        between = np.maximum(square / n - (mean / n) ** 2, 0)
        return np.sqrt(within / freedom) / np.sqrt(np.where(between > 0, between, np.nan))


def _margin_shift(table: EvaluationTable, answers: Answers) -> SamplingUnits:
    before, after = (answers.margin[table.pairs[name].to_numpy()] for name in ("original", "paraphrase"))
    return over_pairs(table, np.abs(before - after))


def _accuracy(table: EvaluationTable, answers: Answers) -> SamplingUnits:
    return over_prompts(table, correct_by_margin(table.prompts, answers), gradable(table.prompts))


def _original_accuracy(table: EvaluationTable, answers: Answers) -> SamplingUnits:
    rows = answer_known(table.prompts) & closed_originals(table.prompts)
    return over_prompts(table, correct_by_margin(table.prompts, answers), rows)


def _by_class(table: EvaluationTable, answers: Answers) -> SamplingUnits:
    """For each gradable wording, four indicators: right and truly yes, truly yes, right and truly no, truly no."""
    rows = gradable(table.prompts) & table.subset.prompts
    right, yes = correct_by_margin(table.prompts, answers)[rows], truly_yes(table.prompts)[rows]
    columns = np.stack([right & yes, yes, right & ~yes, ~yes], axis=1).astype(float)
    return SamplingUnits(columns, list(table.prompts["patient"].to_numpy(object)[rows]))


def _balanced(totals: FloatArray) -> FloatArray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return (totals[..., 0] / totals[..., 1] + totals[..., 2] / totals[..., 3]) / 2


def _by_rank(table: EvaluationTable, answers: Answers) -> SamplingUnits:
    """For each gradable wording, its margin's rank bin, one-hot: first the bins of true yes, then those of true no."""
    rows = gradable(table.prompts) & table.subset.prompts
    yes, n = truly_yes(table.prompts)[rows], int(rows.sum())
    bins = min(n, SCORE_BINS)
    place = ((midranks(answers.margin[rows]) - 0.5) * bins / max(n, 1)).astype(int)
    columns = np.zeros((n, 2 * bins))
    columns[np.arange(n), place + np.where(yes, 0, bins)] = 1
    return SamplingUnits(columns, list(table.prompts["patient"].to_numpy(object)[rows]))


def _auc(totals: FloatArray) -> FloatArray:
    """Share of (yes, no) couples in which the yes question ranks higher; ties count half."""
    yes, no = np.split(totals, 2, axis=-1)
    below = np.cumsum(no, -1) - no / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return (yes * below).sum(-1) / (yes.sum(-1) * no.sum(-1))


def _by_confidence(table: EvaluationTable, answers: Answers) -> SamplingUnits:
    """For each gradable wording, in the columns of its bin: right - confidence, and 1."""
    rows = gradable(table.prompts) & table.subset.prompts
    margin, right = answers.margin[rows], correct_by_margin(table.prompts, answers)[rows]
    columns = np.zeros((len(margin), 2 * ECE_BINS))
    each, place = np.arange(len(margin)), confidence_bin(margin)
    columns[each, place], columns[each, place + ECE_BINS] = right - confidence(margin), 1
    return SamplingUnits(columns, list(table.prompts["patient"].to_numpy(object)[rows]))


def _calibration_error(totals: FloatArray) -> FloatArray:
    """Expected calibration error: mean over bins of |accuracy - confidence|, weighted by bin size."""
    gap, n = np.split(totals, 2, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.abs(gap).sum(-1) / n.sum(-1)


def _first_token(table: EvaluationTable, answers: Answers) -> SamplingUnits:
    return over_prompts(table, answers.right_token, answer_known(table.prompts))


def _sequence(table: EvaluationTable, answers: Answers) -> SamplingUnits:
    rows = answer_known(table.prompts) & ~np.isnan(answers.right_sequence)
    return over_prompts(table, answers.right_sequence, rows)


def _text_only(*kinds: str) -> UnitsOf:
    def units(table: EvaluationTable, answers: Answers) -> SamplingUnits:
        return over_prompts(table, blank_agreement(answers, kinds), closed_originals(table.prompts))

    return units


def _blank_margin(table: EvaluationTable, answers: Answers) -> SamplingUnits:
    size = np.abs(np.stack([answers.blank_margin[kind] for kind in BLANKS])).mean(0)
    return over_prompts(table, size, closed_originals(table.prompts))


def _swap_sensitivity(table: EvaluationTable, answers: Answers) -> SamplingUnits:
    change = swap_change_rate(answers)
    return over_prompts(table, change, closed_originals(table.prompts) & ~np.isnan(change))


def _opposite_change(table: EvaluationTable, answers: Answers) -> SamplingUnits:
    changed = says_yes(opposite_margin(answers)) != says_yes(answers.margin)
    return over_prompts(table, changed, has_opposite(answers))


def _right_on_both(table: EvaluationTable, answers: Answers) -> SamplingUnits:
    own = correct_by_margin(table.prompts, answers)
    other = says_yes(opposite_margin(answers)) != truly_yes(table.prompts)
    return over_prompts(table, own & other, has_opposite(answers))


def _opposite_shift(table: EvaluationTable, answers: Answers) -> SamplingUnits:
    towards = np.where(truly_yes(table.prompts), 1.0, -1.0)
    return over_prompts(table, towards * (answers.margin - opposite_margin(answers)), has_opposite(answers))


def _share_of(quadrant: int) -> UnitsOf:
    def units(table: EvaluationTable, answers: Answers) -> SamplingUnits:
        pairs = table.pairs[table.subset.pairs]
        inside = quadrant_of(table.prompts, pairs, answers, "grey") == quadrant
        return mean_units(inside, table.prompts["patient"][originals_with_pairs(table.prompts, pairs)])

    return units


def _generated_closed(table: EvaluationTable, answers: Answers) -> Bools:
    """[n] whether an answer was generated to a closed question."""
    return table.prompts["closed"].to_numpy(bool) & ~np.isnan(answers.right_sequence)


def _parsable(answers: Answers) -> Bools:
    """[n] whether the generated answer says yes or no."""
    return np.array([word is not None for word in answers.parsed], dtype=bool)


def _parsed_flips(table: EvaluationTable, answers: Answers) -> SamplingUnits:
    """For each pair with two parsable answers, whether these differ."""
    before, after = (table.pairs[name].to_numpy() for name in ("original", "paraphrase"))
    parsable = _parsable(answers)
    rows = table.subset.pairs & parsable[before] & parsable[after]
    differ = answers.parsed[before] != answers.parsed[after]
    return mean_units(differ[rows], table.pairs["patient"].to_numpy(object)[rows])


def _parsed_accuracy(table: EvaluationTable, answers: Answers) -> SamplingUnits:
    rows = _generated_closed(table, answers) & answer_known(table.prompts) & _parsable(answers)
    return over_prompts(table, answers.parsed == table.prompts["answer"].to_numpy(object), rows)


def _parsed_agreement(table: EvaluationTable, answers: Answers) -> SamplingUnits:
    by_margin = np.where(says_yes(answers.margin), "yes", "no").astype(object)
    return over_prompts(table, answers.parsed == by_margin, _generated_closed(table, answers) & _parsable(answers))


def _unparsed(table: EvaluationTable, answers: Answers) -> SamplingUnits:
    return over_prompts(table, ~_parsable(answers), _generated_closed(table, answers))


MEASURES: dict[str, Measure] = {
    "question_flip_rate": Measure(
        "Share of closed questions with at least one paraphrase whose answer differs from the original wording's. "
        "It grows with the number of paraphrases. PSF-Med (arXiv 2602.21428) reports it for parsed answers.",
        lambda table, answers: any_of_question(table, flipped(table.pairs, answers.margin), table.subset.pairs),
        "%",
        binary=True,
    ),
    "pairwise_flip_rate": Measure(
        "Share of (original, paraphrase) pairs of closed questions with different answers (PSF-Med, arXiv 2602.21428).",
        lambda table, answers: over_pairs(table, flipped(table.pairs, answers.margin)),
        "%",
    ),
    "symmetric_flip_rate": Measure(
        "Probability that two wordings of a closed question, drawn at random, get different answers; no wording counts "
        "as the original.",
        _symmetric_flips,
        "%",
    ),
    "margin_difference": Measure(
        "Mean |m(q) - m(p)| over the (original, paraphrase) pairs of closed questions "
        "(Mechanistically Guided LoRA, arXiv 2603.00148).",
        _margin_shift,
        "logits",
    ),
    "margin_dispersion": Measure(
        "Standard deviation of the margin within closed questions divided by that between them; it uses no threshold, "
        "and scaling all margins down does not reduce it.",
        _spread,
        "",
        _dispersion,
    ),
    "accuracy": Measure(
        "Share of all wordings of closed questions with a known answer whose margin has the sign of that answer.",
        _accuracy,
        "%",
    ),
    "original_accuracy": Measure(
        "Accuracy on the original wordings alone.",
        _original_accuracy,
        "%",
        binary=True,
    ),
    "balanced_accuracy": Measure(
        "Mean of the accuracy on wordings whose true answer is yes and on those whose true answer is no.",
        _by_class,
        "%",
        _balanced,
    ),
    "margin_auc": Measure(
        "Probability that a wording whose true answer is yes has a greater margin than one whose true answer is no.",
        _by_rank,
        "",
        _auc,
    ),
    "calibration_error": Measure(
        "Expected calibration error of the confidence sigmoid |m| (Guo et al., arXiv 1706.04599). Resampling raises it "
        "for every model, so its interval lies high.",
        _by_confidence,
        "%",
        _calibration_error,
    ),
    "first_token_accuracy": Measure(
        "Share of all wordings of all question types whose most probable first token is that of the true answer "
        "(model card of saillab/medgemma-4b-targeted-lora-mimic-mt-12k).",
        _first_token,
        "%",
    ),
    "sequence_accuracy": Measure(
        "Share of all wordings of all question types whose generated answer begins with the whole true answer.",
        _sequence,
        "%",
    ),
    "text_only_agreement": Measure(
        "Share of closed questions, in their original wording, whose answer stays the same without the image, as "
        f"the mean over {len(BLANKS)} kinds of blanks; Consistent but Dangerous (arXiv 2603.20985) uses the grey one.",
        _text_only(*BLANKS),
        "%",
    ),
    **{
        f"text_only_agreement_{kind}": Measure(
            f"Text-only agreement with the {kind} blank alone.", _text_only(kind), "%"
        )
        for kind in BLANKS
    },
    "blank_margin": Measure(
        "Mean |m| of closed questions with blank images: how sure the model is of what it cannot see. If it is small, "
        "the sign of a margin without the image is close to a coin toss, and so are the measures that use it.",
        _blank_margin,
        "logits",
    ),
    "swap_sensitivity": Measure(
        "Share of other patients' images that change the answer to a closed question in its original wording.",
        _swap_sensitivity,
        "%",
    ),
    "opposite_swap_sensitivity": Measure(
        "Share of closed questions, in their original wording, whose answer changes with the image of another patient "
        "about whom the same was asked with the opposite answer. Of random swaps only some should change the answer.",
        _opposite_change,
        "%",
        binary=True,
        grouped=False,
    ),
    "paired_image_accuracy": Measure(
        "Share of closed questions, in their original wording, that are answered correctly both on their own image and "
        "on one with the opposite answer, as in the balanced pairs of VQA v2 (Goyal et al., arXiv 1612.00837). A model "
        "that does not look has 0%.",
        _right_on_both,
        "%",
        binary=True,
    ),
    "opposite_margin_shift": Measure(
        "Mean of m(own image) - m(image with the opposite answer), positive towards the true answer of the own image.",
        _opposite_shift,
        "logits",
        grouped=False,
    ),
    "blank_flip_rate": Measure(
        "Question flip rate with the grey blank in place of the image.",
        lambda table, answers: any_of_question(
            table, flipped(table.pairs, answers.blank_margin["grey"]), table.subset.pairs
        ),
        "%",
        binary=True,
    ),
    **{
        name: Measure(
            f"Share of closed questions with paraphrases in the quadrant '{name}' (finetune.evaluation.quadrants), "
            "by the grey blank (Consistent but Dangerous, arXiv 2603.20985).",
            _share_of(i),
            "%",
            binary=True,
        )
        for i, name in enumerate(QUADRANTS)
    },
    "parsed_flip_rate": Measure(
        "Share of (original, paraphrase) pairs of closed questions whose generated answers differ, among those whose "
        "answers both say yes or no by keyword; PSF-Med (arXiv 2602.21428) parses answers in this way.",
        _parsed_flips,
        "%",
    ),
    "parsed_accuracy": Measure(
        "Share of generated answers to closed questions that are right, among those that say yes or no by keyword.",
        _parsed_accuracy,
        "%",
    ),
    "parsed_agreement": Measure(
        "Share of generated answers to closed questions that agree with the sign of the margin, among those that say "
        "yes or no by keyword.",
        _parsed_agreement,
        "%",
    ),
    "unparsed": Measure(
        "Share of generated answers to closed questions that say neither yes nor no, or both; the parsed measures "
        "exclude them.",
        _unparsed,
        "%",
    ),
    **PUBLISHED,
}
"""Name -> measure, in display order."""

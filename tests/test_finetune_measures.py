"""Measures that are not plain means, and quadrants, by hand or against an independent implementation."""

import numpy as np
import pytest
from scipy import stats

from finetune.evaluation.answers import Answers, EvaluationTable, Subset
from finetune.evaluation.measures import MEASURES
from finetune.evaluation.quadrants import QUADRANTS, answer_entropy, judged_pairs, quadrant_of, quadrants
from finetune.evaluation.reliability import confidence, confidence_bin, reliability
from interp.model.blank_images import BLANKS
from interp.questions.schema import Question
from interp.questions.tables import pair_table, prompt_table


def asked(answers, paraphrases=1):
    """Return the table of closed questions with these true answers, one patient each."""
    lines = [
        {"id": str(i), "image": f"{i}.png", "type": "presence", "question": f"q{i}", "answer": answer}
        for i, answer in enumerate(answers)
    ]
    extra = [{"text": f"p{k}"} for k in range(paraphrases)]
    prompts = prompt_table(Question.model_validate(line | {"paraphrases": extra}) for line in lines)
    pairs = pair_table(prompts)
    return EvaluationTable(prompts, pairs, Subset("all", "all", np.ones(len(prompts), bool), np.ones(len(pairs), bool)))


def answered(table, margin, grey=None, other_blanks=None, swapped=None):
    """Return answers with these margins; blank and swapped images change nothing unless given."""
    margin = np.asarray(margin, float)
    original = (table.prompts["variant"] == 0).to_numpy()
    blank = {kind: np.where(original, margin, np.nan) for kind in BLANKS}
    blank["grey"] = margin.copy()
    if grey is not None:
        blank["grey"][original] = grey
    if other_blanks is not None:
        for kind in set(BLANKS) - {"grey"}:
            blank[kind][original] = other_blanks
    others = np.full((len(margin), 3), np.nan)
    others[original] = np.asarray(margin[original] if swapped is None else swapped, float)[:, None]
    nothing = np.full(len(margin), np.nan)
    return Answers(margin, nothing > 0, blank, others, np.full(len(margin), None, dtype=object), nothing)


def value(name, table, answers):
    measure = MEASURES[name]
    return float(measure.statistic(measure.units(table, answers).columns.sum(0)))


def random_answers(table, seed):
    rng = np.random.default_rng(seed)
    truth = (table.prompts["answer"] == "yes").to_numpy()
    return answered(table, rng.normal(np.where(truth, 0.8, -0.8), 1))


@pytest.fixture(scope="module")
def table():
    return asked(np.random.default_rng(0).choice(["yes", "no"], 60, p=[0.3, 0.7]), paraphrases=2)


def test_the_auc_is_the_mann_whitney_statistic(table):
    answers = random_answers(table, 1)
    truth = (table.prompts["answer"] == "yes").to_numpy()
    u = stats.mannwhitneyu(answers.margin[truth], answers.margin[~truth]).statistic
    assert value("margin_auc", table, answers) == pytest.approx(u / (truth.sum() * (~truth).sum()))
    tied = answers._replace(margin=np.round(answers.margin))
    u = stats.mannwhitneyu(tied.margin[truth], tied.margin[~truth]).statistic
    assert value("margin_auc", table, tied) == pytest.approx(u / (truth.sum() * (~truth).sum()))


def test_the_auc_of_more_wordings_than_bins_is_accurate_to_a_thousandth():
    many = asked(np.random.default_rng(2).choice(["yes", "no"], 800), paraphrases=2)
    answers = random_answers(many, 3)
    truth = (many.prompts["answer"] == "yes").to_numpy()
    u = stats.mannwhitneyu(answers.margin[truth], answers.margin[~truth]).statistic
    assert value("margin_auc", many, answers) == pytest.approx(u / (truth.sum() * (~truth).sum()), abs=1e-3)


def test_balanced_accuracy_by_hand():
    four = asked(["yes", "no", "no", "no"], paraphrases=0)
    # yes: 0 of 1; no: 2 of 3
    assert value("balanced_accuracy", four, answered(four, [-1, -1, -2, 3])) == pytest.approx((0 + 2 / 3) / 2)
    assert np.isnan(value("balanced_accuracy", asked(["no"], 0), answered(asked(["no"], 0), [-1])))


def test_calibration_error_equals_a_loop_over_bins(table):
    answers = random_answers(table, 4)
    right = (answers.margin > 0) == (table.prompts["answer"] == "yes").to_numpy()
    sure = np.maximum(1 / (1 + np.exp(-answers.margin)), 1 / (1 + np.exp(answers.margin)))
    assert confidence(answers.margin) == pytest.approx(sure)
    error = 0.0
    for low in np.linspace(0.5, 1, 16)[:-1]:
        inside = (sure >= low) & (sure < low + 1 / 30)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - sure[inside].mean())
    assert value("calibration_error", table, answers) == pytest.approx(error)


def test_a_model_whose_confidence_equals_its_accuracy_is_calibrated():
    rng = np.random.default_rng(5)
    margin = rng.normal(0, 2, 4000)
    truth = rng.random(4000) < 1 / (1 + np.exp(-margin))
    many = asked(np.where(truth, "yes", "no"), paraphrases=0)
    assert value("calibration_error", many, answered(many, margin)) < 0.03
    assert value("calibration_error", many, answered(many, 5 * margin)) > 0.1


def test_margin_dispersion_by_hand_and_under_scaling():
    two = asked(["yes", "no"], paraphrases=2)
    # Squared deviations (1 + 0 + 1) and (4 + 0 + 4), 2 degrees of freedom each; means 2 and -4.
    answers = answered(two, [1, 2, 3, -6, -4, -2])
    expected = np.sqrt((2 + 8) / 4) / 3
    assert value("margin_dispersion", two, answers) == pytest.approx(expected)
    assert value("margin_dispersion", two, answered(two, 0.01 * answers.margin)) == pytest.approx(expected)
    assert value("margin_difference", two, answered(two, 0.01 * answers.margin)) < 0.03


def test_symmetric_flips_treat_all_wordings_alike():
    one = asked(["yes"], paraphrases=3)
    # One of four wordings differs, so 3 of 6 pairs do, whichever it is; pairs with the original: 3 of 3, or 1 of 3.
    odd_first, odd_last = answered(one, [-1, 1, 1, 1]), answered(one, [1, 1, 1, -1])
    assert value("symmetric_flip_rate", one, odd_first) == value("symmetric_flip_rate", one, odd_last) == 0.5
    assert value("pairwise_flip_rate", one, odd_first) == 1
    assert value("pairwise_flip_rate", one, odd_last) == pytest.approx(1 / 3)


def test_the_four_quadrants():
    four = asked(["yes"] * 4)
    # In order: consistent, flips, consistent, flips; the grey blank changes the first two answers only.
    margin = [1, 1, 1, -1, 1, 1, 1, -1]
    grey = [-1, -1, 1, 1]
    answers = answered(four, margin, grey, other_blanks=[1, 1, 1, -1])
    assert quadrant_of(four.prompts, four.pairs, answers, "grey").tolist() == [0, 1, 2, 3]
    for name in QUADRANTS:
        assert value(name, four, answers) == 0.25
    # A white image changes the last answer, and another patient's image the third.
    anyhow = answers._replace(swapped_margin=np.where(np.arange(8)[:, None] == 4, -1.0, answers.swapped_margin))
    assert quadrant_of(four.prompts, four.pairs, anyhow, "any").tolist() == [0, 1, 0, 1]


def test_moves_between_quadrants():
    four = asked(["yes"] * 4)
    base = answered(four, [1, -1, 1, -1, 1, 1, 1, 1], [-1, -1, -1, 1])
    blind = answered(four, np.ones(8), np.ones(4))
    found = quadrants(four.prompts, four.pairs, base, blind, "blind", "grey", 0)
    # Two fragile, one ideal and one dangerous question all become dangerous.
    assert found.moves == [[0, 0, 1, 0], [0, 0, 2, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert found.shares["dangerous"].value == 1
    assert quadrants(four.prompts, four.pairs, base, base, "base", "grey", 0).p == 1


def test_swaps_with_the_opposite_answer_by_hand():
    four = asked(["yes", "no", "yes", "no"], paraphrases=0)
    # Right, right, wrong, right on the own image; on the other one no, yes, no, and none is shown for the last.
    answers = answered(four, [2, -1, -1, -3])._replace(opposite_margin=np.array([-1, 3, -2, np.nan]))
    assert value("opposite_swap_sensitivity", four, answers) == pytest.approx(2 / 3)
    assert value("paired_image_accuracy", four, answers) == pytest.approx(2 / 3)
    assert value("opposite_margin_shift", four, answers) == pytest.approx((3 + 4 + 1) / 3)
    blind = answered(four, [2, -1, -1, -3])._replace(opposite_margin=np.array([2, -1, -1, np.nan]))
    for name in ("opposite_swap_sensitivity", "paired_image_accuracy", "opposite_margin_shift"):
        assert value(name, four, blind) == 0
        assert len(MEASURES[name].units(four, answered(four, [2, -1, -1, -3])).columns) == 0


def test_a_perfect_model_is_ideal_by_images_of_the_opposite_answer_alone():
    four = asked(["yes", "no", "yes", "no"])
    margin = np.repeat([1.0, -1.0, 1.0, -1.0], 2)
    # Without an image it says yes, which half of the questions answer by chance.
    perfect = answered(four, margin, np.ones(4), np.ones(4), margin[::2])
    opposite = np.where(np.arange(8) % 2 == 0, -margin, np.nan)
    opposite[6] = np.nan
    perfect = perfect._replace(opposite_margin=opposite)
    by = {
        kind: quadrants(four.prompts, four.pairs, perfect, perfect, "perfect", kind, 0) for kind in ("grey", "opposite")
    }
    assert by["grey"].shares["dangerous"].value == 0.5
    assert by["opposite"].shares["ideal"].value == 1
    assert by["opposite"].questions == len(judged_pairs(four.pairs, perfect, "opposite")) == 3
    assert list(by["opposite"].inside) == ["ideal"]
    nothing_shown = perfect._replace(opposite_margin=None)
    assert quadrants(four.prompts, four.pairs, nothing_shown, nothing_shown, "perfect", "opposite", 0) is None


def test_certainty_in_a_quadrant_by_hand():
    three = asked(["yes", "yes", "yes"])
    # All consistent and none reliant on the image: dangerous, two of three right.
    answers = answered(three, [np.log(3), np.log(3), 0.0, 0.0, 50, 50])
    found = quadrants(three.prompts, three.pairs, answers, answers, "arm", "grey", 0).inside
    assert list(found) == ["dangerous"]
    means = found["dangerous"]
    assert (means.questions, means.accuracy.value) == (3, pytest.approx(2 / 3, abs=1e-6))
    assert means.margin.value == pytest.approx((np.log(3) + 50) / 3, abs=1e-4)
    # Odds of 3 to 1 have .811278 bits, even odds one; odds of e^50 to 1 next to none.
    assert means.entropy.value == pytest.approx((0.811278 + 1) / 3, abs=1e-5)
    np.testing.assert_allclose(answer_entropy(np.array([0.7, -2.0, 30.0])), entropy_of([0.7, -2.0, 30.0]), atol=1e-9)


def entropy_of(margins):
    return [stats.entropy([1 / (1 + np.exp(-m)), 1 / (1 + np.exp(m))], base=2) for m in margins]


def test_reliability_has_counts_and_intervals_over_patients(table):
    answers = random_answers(table, 3)
    bins = reliability(table.prompts, answers, "base", seed=1)
    assert sum(each.n for each in bins) == len(table.prompts)
    place, right = confidence_bin(answers.margin), (answers.margin > 0) == (table.prompts["answer"] == "yes")
    (widest,) = [each for each in bins if each.n == max(one.n for one in bins)][:1]
    inside = np.flatnonzero(place == round((widest.low - 0.5) * 30))
    assert widest.accuracy == pytest.approx(right[inside].mean(), rel=1e-5)
    # The slow way: draw whole patients, and count their wordings in the bin.
    rng, patient = np.random.default_rng(5), table.prompts["patient"].to_numpy(object)[inside]
    rows = {name: inside[patient == name] for name in dict.fromkeys(patient)}
    drawn = [np.concatenate([rows[p] for p in rng.choice(list(rows), len(rows))]) for _ in range(2000)]
    low, high = np.percentile([right[r].mean() for r in drawn], [2.5, 97.5])
    assert (widest.interval.low, widest.interval.high) == pytest.approx((low, high), abs=0.03)

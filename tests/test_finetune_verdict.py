"""The verdict's rule case by case, and its verdicts on models that a flip rate alone would misjudge."""

import numpy as np
import pytest
from test_finetune_measures import answered, asked

from finetune.evaluation.compare import ArmComparison, compare, subsets_of
from finetune.evaluation.verdict import axis_state, label_of, no_better_than, verdict
from interp.statistics import Estimate


@pytest.mark.parametrize(
    ("consistency", "accuracy", "looking", "beyond", "expected"),
    [
        ("better", "kept", "kept", False, "improved"),
        ("better", "better", "better", False, "improved"),
        ("better", "kept", "lost", False, "improved but less grounded"),
        ("better", "unclear", "lost", False, "not improved"),
        ("better", "unclear", "kept", False, "not improved"),
        ("better", "kept", "unclear", False, "not improved"),
        ("better", "lost", "kept", False, "not improved"),
        ("better", "lost", "kept", True, "worse"),
        ("unclear", "better", "better", False, "not improved"),
        ("unclear", "lost", "kept", False, "worse"),
        ("lost", "better", "kept", False, "worse"),
    ],
)
def test_the_rule(consistency, accuracy, looking, beyond, expected):
    assert label_of(consistency, accuracy, looking, beyond) == expected


def test_an_axis_is_as_good_as_its_worst_measure():
    assert axis_state(["better", "lost"]) == "lost"
    assert axis_state(["better", "unclear"]) == "unclear"
    assert axis_state(["kept", "kept"]) == "kept"


def comparison(measure, before, after, half_width, p=None, n=100):
    change = after - before
    interval = Estimate(change, change - half_width, change + half_width)
    p = (0.001 if abs(change) > half_width else 0.5) if p is None else p
    values = Estimate(before, before, before), Estimate(after, after, after)
    return ArmComparison("all", "all", measure, "base", "x", n, 50, *values, interval, 0.0, "permutation", p, np.nan)


NAMES = ("question_flip_rate", "accuracy", "text_only_agreement", "swap_sensitivity")


def verdict_of(*values):
    return verdict([comparison(name, *value) for name, value in zip(NAMES, values, strict=True)], "base", "x")


FEWER, SAME, LOOKS, SWAPS = (0.2, 0.05, 0.06), (0.8, 0.79, 0.03), (0.5, 0.51, 0.03), (0.45, 0.44, 0.03)


def test_improved_requires_every_axis():
    found = verdict_of(FEWER, SAME, LOOKS, SWAPS)
    assert found.label == "improved"
    assert found.sentence.startswith("Improved: with x, flips fell (20.0% to 5.0%, -15.0 [-21.0, -9.0], p = 0.001)")
    assert "accuracy kept within 5 points (80.0% to 79.0%, -1.0 [-4.0, +2.0], p = 0.5)" in found.sentence
    # The interval of the flips includes zero, or the test is not significant.
    assert verdict_of((0.2, 0.05, 0.2), SAME, LOOKS, SWAPS).label == "not improved"
    assert verdict_of((*FEWER, 0.2), SAME, LOOKS, SWAPS).label == "not improved"


def test_an_unclear_axis_is_reported_with_the_sample_size_that_would_settle_it():
    found = verdict_of(FEWER, (0.8, 0.79, 0.06), LOOKS, SWAPS)
    assert found.label == "not improved"
    # The standard error is 6/1.96 points at n = 100, the gap to -5 points is 4: 100 (2.80 * 3.06 / 4)^2.
    assert "accuracy not shown to be kept" in found.sentence
    assert found.judgements[1].needed == pytest.approx(100 * (2.8016 * (6 / 1.96) / 4) ** 2, rel=0.01)
    assert f"about {found.judgements[1].needed:,} wordings would settle it" in found.sentence


def test_either_measure_of_looking_can_show_its_loss():
    assert verdict_of(FEWER, SAME, (0.5, 0.6, 0.05), SWAPS).label == "improved but less grounded"
    assert verdict_of(FEWER, SAME, LOOKS, (0.45, 0.35, 0.05)).label == "improved but less grounded"
    # Accuracy is lost a little, which the gain outweighs only up to "not improved"; then beyond the tolerance.
    assert verdict_of(FEWER, (0.8, 0.77, 0.02), LOOKS, SWAPS).label == "not improved"
    assert verdict_of(FEWER, (0.8, 0.7, 0.04), LOOKS, SWAPS).label == "worse"


def test_limits_that_fail_a_pipeline():
    improved = verdict_of(FEWER, SAME, LOOKS, SWAPS)
    less = verdict_of(FEWER, SAME, (0.5, 0.6, 0.05), SWAPS)
    not_improved = verdict_of((0.2, 0.19, 0.06), SAME, LOOKS, SWAPS)
    limits = ("less-grounded", "not-improved", "worse")
    assert [no_better_than(improved.label, limit) for limit in limits] == [False, False, False]
    assert [no_better_than(less.label, limit) for limit in limits] == [True, False, False]
    assert [no_better_than(not_improved.label, limit) for limit in limits] == [True, True, False]
    assert no_better_than(verdict([], "base", "x").label, "worse")


def judged(table, base, arm):
    subsets = subsets_of(table.prompts, table.pairs, None)
    return verdict(compare(table.prompts, table.pairs, {"base": base, "x": arm}, {}, subsets, seed=0), "base", "x")


@pytest.fixture(scope="module")
def looking():
    """400 balanced questions, and a base that uses the image, is right on 80%, and flips."""
    rng = np.random.default_rng(0)
    truth = rng.choice(["yes", "no"], 400)
    table = asked(truth, paraphrases=1)
    sign = np.repeat(np.where(truth == "yes", 1.0, -1.0), 2)
    margin = np.where(rng.random(800) < 0.8, 2.0, -2.0) * sign
    blank, swapped = rng.choice([-1.0, 1.0], (2, 400))
    return table, sign, answered(table, margin, blank, blank, swapped)


def test_a_model_that_ignores_the_image_is_not_called_better(looking):
    """It is perfectly consistent, as accurate as before (here the text gives the answer), and ignores every image."""
    table, sign, base = looking
    rng = np.random.default_rng(1)
    constant = np.repeat(np.where(rng.random(400) < 0.8, 2.0, -2.0), 2) * sign
    found = judged(table, base, answered(table, constant))
    assert found.label == "improved but less grounded", found.sentence
    assert "text-only agreement rose" in found.sentence
    assert "swap sensitivity fell" in found.sentence


def test_a_model_that_always_says_yes_is_worse(looking):
    table, _, base = looking
    found = judged(table, base, answered(table, np.full(800, 2.0)))
    assert found.label == "worse", found.sentence


def test_a_consistent_model_that_uses_the_image_is_improved(looking):
    table, sign, base = looking
    margin = np.repeat(base.margin[::2], 2)
    margin = np.where(np.arange(800) % 20 < 4, 2.0 * sign, margin)
    original = ~np.isnan(base.blank_margin["white"])
    found = judged(
        table,
        base,
        answered(
            table,
            margin,
            base.blank_margin["grey"][original],
            base.blank_margin["white"][original],
            base.swapped_margin[original][:, 0],
        ),
    )
    assert found.label == "improved", found.sentence


def test_the_base_is_not_better_than_itself(looking):
    table, _, base = looking
    assert judged(table, base, base).label == "not improved"


def test_a_collapsed_model_is_not_improved():
    values = zip(NAMES, (FEWER, SAME, LOOKS, SWAPS), strict=True)
    found = [comparison(name, *value) for name, value in values]
    assert verdict(found, "base", "x").label == "improved"
    judged = verdict(found, "base", "x", collapsed=True)
    assert judged.label == "not improved"
    assert judged.sentence.startswith("Not improved: ")

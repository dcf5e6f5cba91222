"""Each statistic against a hand-worked number or an independent implementation."""

import warnings

import numpy as np
import pytest
from scipy import stats

from interp.statistics import (
    Estimate,
    auc,
    auc_p_value,
    benjamini_hochberg,
    clusters_drawn,
    cohens_h,
    mcnemar_p,
    mean_interval,
    mean_of_totals,
    needed_units,
    paired_statistic,
    pooled_over_seeds,
    ratio_interval,
    same_marginals_p,
    sign_flip_p,
    spearman,
    two_proportions_p,
    weighted_aucs,
)


def test_too_few_patients_give_a_number_without_an_interval():
    values = np.arange(8.0)
    four, five = (mean_interval(values, [min(i, k) for i in range(8)], 0) for k in (3, 4))
    assert four.value == five.value == 3.5
    assert np.isnan([four.low, four.high]).all()
    assert five.low < 3.5 < five.high


def test_auc_by_counting_pairs():
    scores = np.array([[0.1, 1], [0.4, 1], [0.35, 0], [0.8, 1]])
    positive = np.array([False, False, True, True])
    # column 0: (.35 > .1), (.35 < .4), (.8 > .1), (.8 > .4) -> 3/4; column 1: 0 wins, 2 ties of 4 -> 1/4
    assert auc(scores, positive).tolist() == [0.75, 0.25]


def test_weighted_aucs_are_those_of_the_rows_repeated():
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 6, (60, 3)) / 5, rng.random(60) < 0.3
    weights = rng.integers(0, 4, (20, 60))
    weights[3, positive] = 0
    found = weighted_aucs(scores, positive, weights)
    for draw, times in enumerate(weights):
        rows = np.repeat(np.arange(60), times)
        np.testing.assert_allclose(found[draw], auc(scores[rows], positive[rows]), rtol=1e-12)
    assert np.isnan(found[3]).all()


def test_auc_without_a_class_is_undefined():
    assert np.isnan(auc(np.ones((3, 2)), np.zeros(3, bool))).all()


def test_auc_p_value_is_mann_whitneys():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.4, 1, 60), rng.normal(0, 1, 90)
    value = auc(np.concatenate([a, b]), np.arange(150) < 60)
    expected = stats.mannwhitneyu(a, b, method="asymptotic", use_continuity=False).pvalue
    assert auc_p_value(value, 60, 90)[0] == pytest.approx(expected, rel=1e-6)


def test_benjamini_hochberg_by_hand():
    # Sorted .01 .02 .03 .5 -> x 4/1, 4/2, 4/3, 4/4 = .04 .04 .04 .5 after the step-up minimum
    assert benjamini_hochberg(np.array([0.5, 0.01, 0.03, 0.02])) == pytest.approx([0.5, 0.04, 0.04, 0.04])


def test_mcnemar_by_hand():
    before = np.array([True] * 9 + [False] * 1 + [True] * 5)
    after = np.array([False] * 9 + [True] * 1 + [True] * 5)
    # 1 of 10 discordant: 2 * (1 + 10) / 1024
    assert mcnemar_p(before, after) == pytest.approx(2 * 11 / 1024)
    assert mcnemar_p(before, before) == 1.0


def test_the_bootstrap_draws_whole_clusters():
    member, drawn = clusters_drawn(["a", "b", "a", "c"], 500, seed=0)
    assert member.tolist() == [0, 1, 0, 2]
    assert drawn.shape == (500, 3)
    assert (drawn.sum(1) == 3).all()


def test_interval_covers_and_clusters_widen_it():
    rng = np.random.default_rng(1)
    effect = np.repeat(rng.normal(size=40), 25)
    values = effect + 0.1 * rng.normal(size=1000)
    clustered = mean_interval(values, np.repeat(np.arange(40), 25).tolist(), seed=0)
    naive = mean_interval(values, list(range(1000)), seed=0)
    assert clustered.low < values.mean() < clustered.high
    # The standard error of 40 independent means against that of 1000 rows.
    assert clustered.high - clustered.low == pytest.approx(3.92 * effect.std() / np.sqrt(40), rel=0.2)
    assert naive.high - naive.low == pytest.approx(3.92 * values.std() / np.sqrt(1000), rel=0.2)


def test_coverage_of_the_ratio_interval():
    rng = np.random.default_rng(2)
    hits = 0
    for trial in range(200):
        bottom = rng.uniform(1, 3, 80)
        top = 0.4 * bottom + rng.normal(0, 0.5, 80)
        interval = ratio_interval(top, bottom, list(range(80)), seed=trial, draws=400)
        hits += interval.low <= 0.4 <= interval.high
    assert 180 <= hits <= 199


def test_empty_denominator_is_undefined():
    assert np.isnan(ratio_interval(np.zeros(2), np.zeros(2), ["a", "b"], 0).value)


def test_sign_flip_p_is_uniform_under_the_null_and_small_otherwise():
    rng = np.random.default_rng(3)
    p = [sign_flip_p(rng.normal(size=30), list(range(30)), seed=i, draws=400) for i in range(200)]
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert sign_flip_p(rng.normal(1, 1, 30), list(range(30)), seed=0) < 0.01
    # Five clusters allow no p below 2/32.
    assert sign_flip_p(np.ones(50), np.repeat(np.arange(5), 10).tolist(), seed=0) > 0.05


def columns_of(values):
    return np.stack([values, np.ones(len(values))], axis=1).astype(float)


def test_a_paired_mean_has_the_interval_of_the_mean_and_the_sign_flip_p():
    rng = np.random.default_rng(4)
    patients = [f"p{i}" for i in rng.integers(0, 30, 200)]
    before = rng.normal(size=200)
    after = before + rng.normal(0.15, 1, size=200)
    found = paired_statistic(mean_of_totals, columns_of(before), columns_of(after), (patients, patients), seed=5)
    assert found.before == pytest.approx(mean_interval(before, patients, 5))
    assert found.after == pytest.approx(mean_interval(after, patients, 5))
    assert found.difference == pytest.approx(mean_interval(after - before, patients, 5))
    # The same null by another program: sums of whole patients change sign.
    sums = np.array([(after - before)[np.array(patients) == p].sum() for p in sorted(set(patients))])
    test = stats.permutation_test(
        (sums,), lambda x, axis: x.sum(axis), permutation_type="samples", n_resamples=20000, rng=6
    )
    assert found.p == pytest.approx(test.pvalue, abs=0.015)


def test_samples_of_different_size_are_paired_by_patient():
    # The second sample lacks half of the units; the patients are the same.
    before, after = np.arange(20.0), np.arange(0, 20, 2) + 1.0
    clusters = ([str(i // 2) for i in range(20)], [str(i) for i in range(10)])
    found = paired_statistic(mean_of_totals, columns_of(before), columns_of(after), clusters, seed=0)
    assert (found.before.value, found.after.value) == (9.5, 10.0)
    # Each pair's second value is .5 above its mean, so every draw gives the same difference.
    assert found.difference == pytest.approx((0.5, 0.5, 0.5))
    # Exchanging two units for one moves weight between patients 0 to 19 apart, so little can be shown.
    assert found.p > 0.3


def test_few_patients_have_no_interval():
    found = paired_statistic(mean_of_totals, columns_of([0, 1]), columns_of([1, 1]), (["a", "b"], ["a", "b"]), seed=0)
    assert found.difference.value == 0.5
    assert np.isnan(found.difference[1:]).all()


def test_pooling_over_seeds_covers_the_truth_of_new_patients_and_new_seeds():
    """400 studies with 3 new seeds and 40 new patients each; the true difference is .3."""
    rng = np.random.default_rng(7)
    covered, covered_by_patients_alone, small_p = 0, 0, 0
    for trial in range(400):
        patient, effect = rng.normal(size=40), rng.normal(0.3, 0.5, size=40)
        before = patient + rng.normal(0, 0.3, size=40)
        after = [patient + effect + rng.normal(0, 0.25) + rng.normal(0, 0.3, size=40) for _ in range(3)]
        names = [str(i) for i in range(40)]
        found = pooled_over_seeds(
            mean_of_totals, columns_of(before), [columns_of(a) for a in after], [names] * 4, seed=trial, draws=300
        )
        assert found.difference.value == pytest.approx(np.mean(after) - before.mean())
        covered += found.difference.low <= 0.3 <= found.difference.high
        small_p += (found.p < 0.05) == (not found.difference.low <= 0 <= found.difference.high)
        alone = mean_interval(np.mean(after, axis=0) - before, names, trial, 300)
        covered_by_patients_alone += alone.low <= 0.3 <= alone.high
    assert 376 <= covered <= 400
    # Without the variance between seeds, the interval is too narrow.
    assert covered_by_patients_alone < 350
    assert small_p == 400


def test_the_published_flip_rates_differ_as_published():
    # Mechanistically Guided LoRA: 14.6% against 4.4% of 158 questions, two-proportion z test, p about .002
    before, after = np.arange(158) < 23, np.arange(158) < 7
    assert (round(before.mean(), 3), round(after.mean(), 3)) == (0.146, 0.044)
    p = two_proportions_p(before, after)
    assert p == pytest.approx(0.002, abs=0.0005)
    pooled = 30 / 316
    z = (23 - 7) / 158 / np.sqrt(pooled * (1 - pooled) * 2 / 158)
    assert p == pytest.approx(2 * stats.norm.sf(z))
    assert np.isnan(two_proportions_p(before & False, after & False))


def test_cohens_h_of_cohens_table():
    # Cohen 1988, table 6.2.2: phi(.60) = 1.772, phi(.40) = 1.369
    assert cohens_h(0.40, 0.60) == pytest.approx(1.772 - 1.369, abs=1e-3)
    assert cohens_h(0.6, 0.4) == -cohens_h(0.4, 0.6)


def test_spearman_is_scipys_with_ties_and_for_many_series_at_once():
    rng = np.random.default_rng(0)
    many, one = rng.integers(0, 6, (5, 40)).astype(float), rng.integers(0, 6, 40).astype(float)
    expected = [stats.spearmanr(each, one).statistic for each in many]
    np.testing.assert_allclose(spearman(many, one), expected, rtol=1e-12)
    assert spearman(one, -(one**3)) == pytest.approx(-1)
    assert np.isnan(spearman(one, np.ones(40)))


def test_needed_units_give_the_promised_power():
    # 100 questions gave -.02 with a standard error of .03; how many to show that no loss reaches .05?
    seen = Estimate(-0.02, -0.02 - 1.96 * 0.03, -0.02 + 1.96 * 0.03)
    n = needed_units(seen, 100, -0.05)
    error = 0.03 * np.sqrt(100 / n)
    low = np.random.default_rng(8).normal(-0.02, error, 20000) - 1.96 * error
    assert (low > -0.05).mean() == pytest.approx(0.8, abs=0.01)
    assert needed_units(seen, 100, -0.02) is None
    assert needed_units(Estimate(0.1, np.nan, np.nan), 4, 0.0) is None


def test_same_marginals_of_two_categories_is_mcnemar_without_correction():
    # 15 left the first category and 5 came: (15 - 5)^2 / 20 = 5.
    assert same_marginals_p(np.array([[30, 15], [5, 50]])) == pytest.approx(stats.chi2.sf(5, 1))
    # A category that never occurs changes nothing.
    assert same_marginals_p(np.array([[30, 0, 15], [0, 0, 0], [5, 0, 50]])) == pytest.approx(stats.chi2.sf(5, 1))
    assert same_marginals_p(np.diag([3, 4, 5, 6])) == 1.0
    apart = np.array([[5, 2, 0, 0], [1, 5, 0, 0], [0, 0, 5, 2], [0, 0, 0, 5]])
    with warnings.catch_warnings(action="error"):
        assert np.isnan(same_marginals_p(apart))


def test_same_marginals_by_hand():
    # d = row - column sums of the first two categories; S = diag(row + column) - (n_ij + n_ji)
    table = np.array([[20, 10, 5], [3, 30, 15], [0, 5, 40]])
    d = np.array([35 - 23, 48 - 45])
    s = np.array([[35 + 23 - 40, -(10 + 3)], [-(10 + 3), 48 + 45 - 60]])
    assert same_marginals_p(table) == pytest.approx(stats.chi2.sf(d @ np.linalg.inv(s) @ d, 2))

"""Each statistic against a hand-worked number or an independent implementation."""

import numpy as np
import pytest
from scipy import stats

from interp.statistics import (
    auc,
    auc_p_value,
    benjamini_hochberg,
    clusters_drawn,
    mcnemar_p,
    mean_interval,
    ratio_interval,
    sign_flip_p,
)


def test_auc_by_counting_pairs():
    scores = np.array([[0.1, 1], [0.4, 1], [0.35, 0], [0.8, 1]])
    positive = np.array([False, False, True, True])
    # column 0: (.35 > .1), (.35 < .4), (.8 > .1), (.8 > .4) -> 3/4; column 1: 0 wins, 2 ties of 4 -> 1/4
    assert auc(scores, positive).tolist() == [0.75, 0.25]


def test_auc_without_a_class_is_undefined():
    assert np.isnan(auc(np.ones((3, 2)), np.zeros(3, bool))).all()


def test_auc_p_value_is_mann_whitneys():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.4, 1, 60), rng.normal(0, 1, 90)
    value = auc(np.concatenate([a, b]), np.arange(150) < 60)
    expected = stats.mannwhitneyu(a, b, method="asymptotic", use_continuity=False).pvalue
    assert auc_p_value(value, 60, 90)[0] == pytest.approx(expected, rel=1e-6)


def test_benjamini_hochberg_by_hand():
    # sorted .01 .02 .03 .5 -> x 4/1, 4/2, 4/3, 4/4 = .04 .04 .04 .5 after the step-up minimum
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
    # the standard error of 40 independent means against that of 1000 rows
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
    # five clusters allow no p below 2/32
    assert sign_flip_p(np.ones(50), np.repeat(np.arange(5), 10).tolist(), seed=0) > 0.05

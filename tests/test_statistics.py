"""Each statistic against a hand-worked number or an independent implementation."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from interp.statistics import (
    Estimate,
    auc,
    auc_p_value,
    benjamini_hochberg,
    clusters_drawn,
    cohens_h,
    intraclass_correlation,
    mean_interval,
    mean_of_totals,
    midranks,
    needed_units,
    paired_statistic,
    pooled_over_seeds,
    ratio_interval,
    ratio_sign_flips,
    ratio_t_test,
    same_marginals_p,
    share_interval,
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


def test_benjamini_hochberg_is_statsmodels_and_midranks_are_scipys():
    rng = np.random.default_rng(0)
    p_values = np.round(rng.random(200) ** 3, 2)
    assert benjamini_hochberg(p_values).tolist() == multipletests(p_values, method="fdr_bh")[1].tolist()
    values = np.round(rng.normal(size=(50, 4)), 1)
    gap = np.where(np.arange(200).reshape(50, 4) == 6, np.nan, values)
    for each in (values, values[:, 0], values[:1], values[:0], values[:0, 0], gap):
        np.testing.assert_array_equal(midranks(each), stats.rankdata(each, axis=0))
    assert np.isnan(auc(gap, values[:, 0] > 0)).tolist() == [False, False, True, False]


@pytest.mark.parametrize("patients", [5, 12, 200])
def test_a_share_of_no_or_all_patients_has_clopper_and_pearsons_interval(patients):
    # Three rows a patient, which depend: they count once.
    clusters = [k % patients for k in range(3 * patients)]
    for value in (0, 1):
        found = share_interval(np.full(len(clusters), value), clusters, seed=0)
        exact = stats.binomtest(value * patients, patients).proportion_ci(method="exact")
        assert found == pytest.approx((value, exact.low, exact.high))
    assert np.isnan(share_interval(np.zeros(8), [0, 0, 1, 1, 2, 2, 3, 3], seed=0)[1:]).all()


def test_unequal_patients_count_as_fewer_in_an_exact_interval():
    # Patients of 1, 1, 1, 1 and 6 rows: (1 + 1 + 1 + 1 + 6)^2 / (1 + 1 + 1 + 1 + 36) = 2.5.
    found = share_interval(np.zeros(10), [0, 1, 2, 3, 4, 4, 4, 4, 4, 4], seed=0)
    assert found == pytest.approx((0, 0, 1 - 0.025 ** (1 / 2.5)))


def test_an_exact_interval_covers_a_rare_event():
    """Events of a patient come together; samples without any had an interval of zero width."""
    rng = np.random.default_rng(0)
    clusters, held = np.repeat(np.arange(40), 4), 0
    for _ in range(300):
        found = share_interval(np.repeat(rng.random(40) < 0.02, 4), clusters, seed=0, draws=500)
        held += found.low <= 0.02 <= found.high
    assert held >= 0.95 * 300


def test_shares_of_both_samples_are_exact_at_the_ends():
    none, some = np.zeros(30), np.tile([0.0, 1.0, 0.0], 10)
    patients = [str(k // 2) for k in range(30)]
    columns = [np.stack([each, np.ones(30)], axis=1) for each in (none, some)]
    found = paired_statistic(mean_of_totals, *columns, (patients, patients), 0, share=True)
    assert found.before == pytest.approx((0, 0, 1 - 0.025 ** (1 / 15)))
    plain = paired_statistic(mean_of_totals, *columns, (patients, patients), 0)
    assert (found.after, found.difference, found.p) == (plain.after, plain.difference, plain.p)
    pooled = pooled_over_seeds(mean_of_totals, columns[1], [columns[0]] * 2, [patients] * 3, 0, share=True)
    assert pooled.after == found.before


def paired_shares(before, after, patients, seed=0):
    return paired_statistic(
        mean_of_totals, columns_of(before), columns_of(after), (patients, patients), seed, draws=200
    )


def test_with_one_question_a_patient_the_test_is_mcnemars():
    before = np.array([True] * 9 + [False] * 1 + [True] * 5)
    after = np.array([False] * 9 + [True] * 1 + [True] * 5)
    # 1 of 10 discordant: 2 * (1 + 10) / 1024
    assert paired_shares(before, after, list(range(15))).p == pytest.approx(2 * 11 / 1024, abs=0.005)
    assert paired_shares(before, before, list(range(15))).p == 1.0


def test_questions_of_one_patient_do_not_count_as_many():
    before, after = np.zeros(60), np.ones(60)
    # Eight patients, all of whose questions improve: 2 of 256 sign changes are as extreme.
    found = paired_shares(before, after, [i % 8 for i in range(60)])
    assert found.p == pytest.approx(2 / 256, abs=0.004)
    # With five patients nothing can be shown at p < .05, so no interval is claimed.
    found = paired_shares(before, after, [i % 5 for i in range(60)])
    assert found.p == pytest.approx(2 / 32, abs=0.01)
    assert np.isnan(found.difference[1:]).all()


def clustered_change(rng, patients, yes_no):
    """Two measurements of some questions of each patient, with a change of zero on average, that patients share."""
    who = np.repeat(np.arange(patients), rng.integers(1, 8, patients))
    own, shared = rng.normal(size=len(who)), rng.normal(size=patients)[who]
    before = rng.normal(size=patients)[who] + rng.normal(size=len(who))
    if not yes_no:
        return before, before + 0.8 * shared + own, who.tolist()
    change = 0.7 * shared + own
    return before > 0, np.where(np.abs(change) > 0.9, change > 0, before > 0), who.tolist()


@pytest.mark.parametrize("yes_no", [True, False])
def test_under_the_null_with_dependent_questions_the_test_rejects_rarely_and_its_interval_covers(yes_no):
    rng = np.random.default_rng(11)
    rejected = covered = 0
    for trial in range(300):
        before, after, who = clustered_change(rng, [8, 20, 40][trial % 3], yes_no)
        found = paired_statistic(
            mean_of_totals, columns_of(before), columns_of(after), (who, who), trial, draws=50, shuffles=999
        )
        rejected += found.p <= 0.05
        covered += found.difference.low <= 0 <= found.difference.high
        # One procedure: the interval leaves out zero exactly where the test rejects it.
        assert (found.p <= 0.05) == (not found.difference.low <= 0 <= found.difference.high)
    # 5% and 95%, within three standard errors of 300 trials.
    assert rejected / 300 <= 0.088
    assert covered / 300 >= 0.912


def test_the_interval_holds_the_values_that_the_sign_flip_test_does_not_reject():
    rng = np.random.default_rng(5)
    who = rng.integers(0, 12, 60)
    bottom = rng.uniform(1, 2, 60)
    top = 0.3 * bottom + rng.normal(0, 0.3, 60)
    found, _ = ratio_sign_flips(top, bottom, who.tolist(), seed=2, draws=2000)
    signs = np.array(np.meshgrid(*[[-1, 1]] * 12)).reshape(12, -1).T

    def exact_p(value):
        sums = np.bincount(who, top - value * bottom)
        return (np.abs(signs @ sums) >= abs(sums.sum()) - 1e-12).mean()

    for end, inside in ((found.low, 1), (found.high, -1)):
        assert exact_p(end) == pytest.approx(0.05, abs=0.015)
        assert exact_p(end + inside * 0.02) > 0.05 > exact_p(end - inside * 0.05)


def test_the_ratio_t_test_inverts_itself_and_covers():
    rng = np.random.default_rng(6)
    covered = 0
    for _ in range(300):
        who = np.repeat(np.arange(15), rng.integers(2, 6, 15))
        bottom = rng.uniform(1, 3, len(who))
        top = 0.9 * bottom + 0.3 * rng.normal(size=15)[who] + 0.2 * rng.normal(size=len(who))
        found = ratio_t_test(top, bottom, who.tolist(), 0.9)
        covered += found.ratio.low <= 0.9 <= found.ratio.high
        assert (min(found.above, found.below) < 0.025) == (not found.ratio.low <= 0.9 <= found.ratio.high)
        assert ratio_t_test(top, bottom, who.tolist(), found.ratio.low).above == pytest.approx(0.025)
        assert ratio_t_test(top, bottom, who.tolist(), found.ratio.high).below == pytest.approx(0.025)
    assert 0.912 <= covered / 300 <= 0.988


def test_intraclass_correlation_is_that_of_the_analysis_of_variance():
    rng = np.random.default_rng(7)
    values = (rng.normal(size=(400, 1)) + rng.normal(size=(400, 5))).ravel()
    who = np.repeat(np.arange(400), 5).tolist()
    f = stats.f_oneway(*values.reshape(400, 5)).statistic
    # ICC(1) of equal groups: (F - 1) / (F + k - 1); half of the variance is shared here.
    assert intraclass_correlation(values, who) == pytest.approx((f - 1) / (f + 4))
    assert intraclass_correlation(values, who) == pytest.approx(0.5, abs=0.06)
    assert intraclass_correlation(values[:400], list(range(400))) == 0


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
    # Patients who add nothing to either sum do not make up for those who are too few.
    for counted in (4, 5):
        only = np.where(np.arange(20) < counted, [2.0] * 20, 0.0)
        found = ratio_interval(only / 2, only, list(range(20)), 0)
        assert (found.value, np.isnan(found.low)) == (0.5, counted < 5)


def sign_flip_p(values, clusters, seed, draws=5000):
    return ratio_sign_flips(values, np.ones(len(values)), clusters, seed, draws)[1]


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
    # The bootstrap is another procedure, but estimates the same.
    assert found.difference == pytest.approx(mean_interval(after - before, patients, 5), abs=0.06)
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
    # No patient moves it, so every change of signs is less extreme but the two that change none or all of ten.
    assert found.p == pytest.approx(2 / 1024, abs=0.003)


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


def rows_of(table):
    """The categories before and after of every row that a table of moves counts."""
    places = np.argwhere(table >= 0).repeat(table.ravel(), axis=0)
    return places[:, 0], places[:, 1]


def stuart_maxwell(table):
    # d = row - column sums of all but the last category; S = diag(row + column) - (n_ij + n_ji)
    d = (table.sum(1) - table.sum(0))[:-1]
    s = (np.diag(table.sum(0) + table.sum(1)) - table - table.T)[:-1, :-1]
    return stats.chi2.sf(d @ np.linalg.inv(s) @ d, len(d))


@pytest.mark.parametrize("table", [[[30, 15], [5, 50]], [[20, 10, 5], [3, 30, 15], [0, 5, 40]]])
def test_same_marginals_of_independent_rows_is_stuart_maxwell(table):
    before, after = rows_of(np.array(table))
    alone = list(range(len(before)))
    assert same_marginals_p(before, after, alone, seed=0) == pytest.approx(stuart_maxwell(np.array(table)), abs=0.02)
    assert same_marginals_p(before, before, alone, seed=0) == 1.0


def test_same_marginals_counts_patients():
    before, after = np.zeros(60, int), np.ones(60, int)
    # All questions of six patients move: 2 of 64 sign changes are as extreme.
    assert same_marginals_p(before, after, [i % 6 for i in range(60)], seed=0) == pytest.approx(2 / 64, abs=0.01)
    assert same_marginals_p(before, after, list(range(60)), seed=0) < 0.001
    # Changes within groups of categories that never mix are tested too.
    apart = rows_of(np.array([[5, 2, 0, 0], [1, 5, 0, 0], [0, 0, 5, 2], [0, 0, 0, 5]]))
    assert 0.05 < same_marginals_p(*apart, list(range(len(apart[0]))), seed=0) < 1

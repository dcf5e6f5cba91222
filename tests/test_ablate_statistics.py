"""The statistics of an ablation against known truths, slow loops and scipy."""

import itertools

import numpy as np
import pytest
from scipy import stats
from test_finetune_measures import answered

from finetune.ablation import metrics as ablation_metrics
from finetune.ablation.conclusion import conclusion
from finetune.ablation.metrics import (
    COMBINED,
    METRICS,
    HeldOutQuestions,
    WeightedMetrics,
    held_out_questions,
    mean_over_seeds,
    measure_value,
    patient_totals,
    patient_weights,
    weighted_metrics,
)
from finetune.ablation.plan import plan_arms
from finetune.ablation.profile_validity import (
    LAYER_SCORES,
    ProfileValidity,
    layer_scores,
    picked_window,
    profile_validity,
)
from finetune.ablation.regret import WindowRegret, goodness, rank_windows, regrets
from finetune.ablation.settings import AblationSettings
from finetune.evaluation.answers import EvaluationTable, Subset
from finetune.evaluation.measures import MEASURES
from finetune.training.sensitivity import Sensitivity
from interp.questions.schema import Question
from interp.runtime.errors import InputError
from interp.schemas.layers import GateEntry, ProfileEntry
from interp.statistics import Estimate, pooled_over_seeds


def asked_for(patients, paraphrases=2):
    extra = [{"text": f"p{k}"} for k in range(paraphrases)]
    lines = [
        {"id": f"{i}", "image": f"{i}.png", "type": "presence", "question": "q", "answer": "yes", "paraphrases": extra}
        for i in range(patients)
    ]
    return held_out_questions([Question.model_validate(line) for line in lines])


def table_of(asked):
    everything = Subset("all", "all", np.ones(len(asked.prompts), bool), np.ones(len(asked.pairs), bool))
    return EvaluationTable(asked.prompts, asked.pairs, everything)


def with_flips(asked, flips):
    """Answer rightly except for the last wording of questions in `flips` [patients]; say no to blank images."""
    margin = np.ones(len(asked.prompts))
    variants = int(asked.prompts["variant"].max()) + 1
    margin[variants - 1 :: variants] = np.where(flips, -1.0, 1.0)
    questions = asked.prompts["variant"].eq(0).sum()
    return answered(table_of(asked), margin, grey=-np.ones(questions), other_blanks=-np.ones(questions))


def draws_of(windows, asked, seed=0):
    base = with_flips(asked, np.zeros(len(asked.patients), bool))
    return patient_totals(asked, base, windows), patient_weights(len(asked.patients), seed)


def test_the_metrics_and_the_combined_score_by_hand():
    asked = asked_for(4)
    table = table_of(asked)
    base = answered(table, np.ones(12), grey=[-1, -1, -1, 1], other_blanks=[-1, -1, -1, 1])
    # One of four questions flips, so 11 of 12 wordings are right.
    # With `blind`, blanks agree in two questions more than in the base.
    flips = with_flips(asked, [True, False, False, False])
    blank = {
        kind: np.where(np.isnan(m), m, np.where(asked.prompts["question"] > 0, 1.0, -1.0))
        for kind, m in flips.blank_margin.items()
    }
    blind = flips._replace(blank_margin=blank)
    found = weighted_metrics(patient_totals(asked, base, [[flips], [blind]]), np.ones((1, 4)))
    assert found.base[COMBINED][0] == pytest.approx(1.0)
    assert found.base["text_only_agreement"][0] == 0.25
    # Less text-only agreement than the base adds nothing to the score.
    assert found.arms[COMBINED][0, :, 0] == pytest.approx([11 / 12 - 1 / 4, 11 / 12 - 1 / 4 - 0.5])
    for metric in set(METRICS) - {COMBINED}:
        measure = MEASURES[metric]
        for place, answers in enumerate((flips, blind)):
            expected = measure.statistic(measure.units(table, answers).columns.sum(0))
            assert found.arms[metric][0, place, 0] == pytest.approx(expected), metric
            assert measure_value(asked, answers, metric) == pytest.approx(expected)


def test_intervals_equal_those_of_pooling_over_seeds():
    asked = asked_for(40)
    rng = np.random.default_rng(0)
    seeds = [with_flips(asked, rng.random(40) < share) for share in (0.2, 0.3, 0.25)]
    base = with_flips(asked, rng.random(40) < 0.5)
    found = weighted_metrics(patient_totals(asked, base, [seeds]), patient_weights(40, 5))
    measure = MEASURES["question_flip_rate"]
    units = [measure.units(table_of(asked), answers) for answers in (base, *seeds)]
    columns = [each.columns for each in units]
    expected = pooled_over_seeds(
        measure.statistic, columns[0], columns[1:], [each.patients for each in units], 5, ablation_metrics.DRAWS
    )
    values = found.arms["question_flip_rate"][:, 0]
    assert mean_over_seeds(values, 40) == pytest.approx(expected.after)
    assert mean_over_seeds(values - found.base["question_flip_rate"][:, None], 40) == pytest.approx(expected.difference)
    assert np.isnan(mean_over_seeds(values, 4).low), "no interval for four patients"


def test_a_share_without_any_event_has_the_exact_interval_of_its_patients():
    """Twenty patients have one question each and ten have three; nothing flips, and every wording is right."""
    extra = [{"text": "p"}]
    lines = [
        {"id": f"{i}-{k}", "image": f"{i}.png", "type": "presence", "question": "q", "answer": "yes"}
        | {"paraphrases": extra}
        for i in range(30)
        for k in range(3 if i < 10 else 1)
    ]
    asked = held_out_questions([Question.model_validate(line) for line in lines])
    steady = with_flips(asked, np.zeros(50, bool))
    one = [with_flips(asked, np.arange(50) == 0)]
    # Kish: (50 questions)^2 / (10 * 3^2 + 20), the effective number of patients of Clopper and Pearson's interval.
    reach = 0.025 ** (110 / 50**2)
    for seeds in (1, 2):
        sums = patient_totals(asked, steady, [[steady] * seeds, one * seeds])
        found = weighted_metrics(sums, patient_weights(30, 0))
        for name, expected in (("question_flip_rate", (0, 0, 1 - reach)), ("accuracy", (1, reach, 1))):
            assert mean_over_seeds(found.arms[name][:, 0], 30, sums.sizes[name]) == pytest.approx(expected)
            base = found.base[name][:, None]
            assert mean_over_seeds(base, 30, sums.sizes[name]) == pytest.approx(expected)
        # A single event is enough for the bootstrap.
        flips = found.arms["question_flip_rate"][:, 1]
        assert mean_over_seeds(flips, 30, sums.sizes["question_flip_rate"]).low == 0
        assert mean_over_seeds(flips, 30).value == pytest.approx(1 / 50)
    assert "margin_difference" not in sums.sizes
    assert COMBINED not in sums.sizes


def test_a_known_regret_and_its_ranks():
    """Four windows flip on 0, 10, 40 and 40% of the questions, and the last one is the chosen one."""
    asked = asked_for(200)
    rng = np.random.default_rng(1)
    order = [rng.permutation(200) for _ in range(4)]
    windows = [[with_flips(asked, each < 200 * share)] for each, share in zip(order, (0, 0.1, 0.4, 0.4), strict=True)]
    sums, weights = draws_of(windows, asked)
    cost = {each.metric: each for each in regrets(sums, 3, 200, 0)}["question_flip_rate"]
    assert (cost.best, cost.optimistic) == (0, pytest.approx(0.4))
    assert cost.picked.tolist() == pytest.approx([1, 0, 0, 0])
    # The best window is the same in all halves, and together the halves contain every patient once.
    assert cost.regret.value == pytest.approx(0.4, abs=1e-9)
    spread = np.sqrt(0.4 * 0.6 / 200)
    assert cost.regret.high - cost.regret.low == pytest.approx(3.92 * spread, rel=0.15)
    good = goodness(weighted_metrics(sums, weights), "question_flip_rate")
    assert [tuple(place) for place in rank_windows(good, 200)] == [(1, 1), (2, 2), (3, 4), (3, 4)]
    # The best window has no regret.
    own = {each.metric: each for each in regrets(sums, 0, 200, 0)}["question_flip_rate"]
    assert own.regret == pytest.approx((0, 0, 0))


def test_the_regret_of_every_window_and_of_chance():
    """Windows flip on 10, 30 and 50%: the second has a regret of .2, a random one that of the mean of 0, .2 and .4."""
    asked = asked_for(200)
    windows = [[with_flips(asked, np.arange(200) % 10 < k)] for k in (1, 3, 5)]
    cost = {each.metric: each for each in regrets(draws_of(windows, asked)[0], 2, 200, 0)}["question_flip_rate"]
    assert [found.value for found in cost.of_windows] == pytest.approx([0, 0.2, 0.4], abs=1e-9)
    assert cost.of_windows[2] == cost.regret
    assert cost.of_chance.value == pytest.approx(0.2, abs=1e-9)
    alone = {each.metric: each for each in regrets(draws_of(windows, asked)[0], 1, 200, 0)}["question_flip_rate"]
    assert alone.regret == cost.of_windows[1]


def test_arms_with_equal_answers_are_tied_and_have_no_regret():
    asked = asked_for(30)
    rng = np.random.default_rng(2)
    seeds = [with_flips(asked, rng.random(30) < 0.4) for _ in range(2)]
    sums, weights = draws_of([seeds] * 3, asked)
    for cost in regrets(sums, 1, 30, 0):
        if cost.metric != "swap_sensitivity":
            assert cost.regret == pytest.approx((0, 0, 0)), cost.metric
            assert cost.picked == pytest.approx([1 / 3] * 3)
    good = goodness(weighted_metrics(sums, weights), COMBINED)
    assert [tuple(place) for place in rank_windows(good, 30)] == [(1, 3)] * 3


def test_without_a_true_difference_the_regret_is_centred_on_zero_but_the_optimistic_one_is_not(monkeypatch):
    """In 30 trials with eight equal windows, the window that is best by luck is no better on the other patients."""
    monkeypatch.setattr(ablation_metrics, "DRAWS", 100)
    asked = asked_for(60, paraphrases=1)
    rng = np.random.default_rng(3)
    found = []
    for trial in range(30):
        windows = [[with_flips(asked, rng.random(60) < 0.3) for _ in range(2)] for _ in range(8)]
        costs = regrets(draws_of(windows, asked)[0], 0, 60, trial)
        found.append(next(cost for cost in costs if cost.metric == "question_flip_rate"))
    values = np.array([cost.regret.value for cost in found])
    error = values.std(ddof=1) / np.sqrt(len(values))
    assert abs(values.mean()) < 2.6 * error
    assert np.mean([cost.optimistic for cost in found]) > 0.05
    covered = sum(cost.regret.low <= 0 <= cost.regret.high for cost in found)
    assert covered >= 25


def test_regret_equals_slow_loops():
    asked = asked_for(12, paraphrases=1)
    rng = np.random.default_rng(4)
    flips = rng.random((3, 2, 12)) < 0.5
    sums, _ = draws_of([[with_flips(asked, each) for each in window] for window in flips], asked)
    cost = {each.metric: each for each in regrets(sums, 2, 12, 7)}["question_flip_rate"]
    # Patients are sorted by their names as text.
    by_name = flips[:, :, np.argsort([str(i) + ".png" for i in range(12)])]
    halves, terms = np.random.default_rng([7, 29]), []
    for _ in range(10):
        order = halves.permutation(12)
        for here, there in ((order[:6], order[6:]), (order[6:], order[:6])):
            for seed, other in ((0, 1), (1, 0)):
                rates = [by_name[w, other, here].mean() for w in range(3)]
                picks = [w for w in range(3) if rates[w] == min(rates)]
                best = np.mean([by_name[w, seed, there].mean() for w in picks])
                terms.append(by_name[2, seed, there].mean() - best)
    assert cost.regret.value == pytest.approx(np.mean(terms))


def test_rank_correlations_are_spearmans_with_ties_at_their_mean_rank():
    rng = np.random.default_rng(5)
    windows = [(layer,) for layer in range(9)]
    for score, values in rng.integers(0, 5, (6, 2, 9)).astype(float):
        metrics = WeightedMetrics({metric: np.tile(values[None, :, None], (11, 1, 1)) for metric in METRICS}, {})
        found = profile_validity({"score": dict(enumerate(score))}, windows, metrics, 30, 0)
        expected = stats.spearmanr(score, values).statistic
        assert {v.metric: v.rho.value for v in found} == pytest.approx({m: s * expected for m, s in METRICS.items()})


def profile_of(auc, **others):
    """Return profile entries with these flip AUCs; everything else is the same in all layers."""
    same = {"value": 0.5, "low": 0.4, "high": 0.6}
    names = ("recovery", "random_patch", "write", "random_write", "net_write")
    return [
        ProfileEntry(
            layer=layer,
            flip_auc={"value": value, "low": 0.0, "high": 1.0},
            flip_auc_null=None,
            reversals=0,
            fvu=None,
            l0=None,
            **dict.fromkeys(names, same),
            **others,
        )
        for layer, value in enumerate(auc)
    ]


def test_profile_validity_of_a_score_that_predicts_every_metric():
    auc = [0.5, 0.9, 0.6, 0.55, 0.8]
    windows = list(itertools.pairwise(range(5)))
    means = np.array([auc[a] + auc[b] for a, b in windows]) / 2
    good = {metric: sign * np.tile(means[None, :, None], (11, 1, 1)) for metric, sign in METRICS.items()}
    found = {
        (w.score, w.metric): w
        for w in profile_validity(layer_scores(profile_of(auc), []), windows, WeightedMetrics(good, {}), 30, 0)
    }
    for metric in METRICS:
        assert found["flip AUC", metric].rho == pytest.approx((1, 1, 1)), metric
        assert np.isnan(found["write, net", metric].rho.value), "the same in all layers"
        assert found["depth", metric].rho.value == pytest.approx(stats.spearmanr(means, range(4)).statistic)
    # The exact p value, over all orders of the five layers.
    null = [stats.spearmanr([p[a] + p[b] for a, b in windows], means).statistic for p in itertools.permutations(auc)]
    exact = np.mean(np.abs(null) > 1 - 1e-9)
    assert found["flip AUC", "accuracy"].p == pytest.approx(exact, abs=0.02)


def test_layer_scores_and_the_windows_that_they_choose():
    profile = profile_of([0.5, 0.9, 0.6, 0.55])
    told = [Sensitivity(layer, m, 1.0 + layer, 4.0 - layer) for layer in range(4) for m in ("attention", "mlp")]
    scores = layer_scores(profile, told)
    assert list(scores) == list(LAYER_SCORES)
    # Of a layer's two modules, squared norms and traces add up.
    assert scores["gradient norm"] == pytest.approx({k: 2**0.5 * (1 + k) for k in range(4)})
    assert scores["Fisher"] == {0: 8.0, 1: 6.0, 2: 4.0, 3: 2.0}
    windows = [(0, 1), (1, 2), (2, 3)]
    taken = {name: picked_window(of_layer, windows, name) for name, of_layer in scores.items()}
    assert taken["flip AUC"] == 1
    assert taken["gradient norm"] == 2
    assert taken["Fisher"] == taken["depth"] == 0, "by depth the earliest"
    assert taken["write, net"] == 0, "the first of equals"
    assert picked_window({0: 0.5, 1: 0.9, 2: 0.6}, windows, "flip AUC") is None, "layer 3 has no score"


def test_the_conclusion_says_what_the_range_beats_ties_with_and_loses_to():
    arms = plan_arms(
        [0], dict.fromkeys(range(6), 1), AblationSettings(kinds=("random", "window", "all", "all-matched"))
    )
    rng = np.random.default_rng(6)
    truth = {"chosen": 0.5, "window": 0.3, "all": 0.7, "all-matched": 0.5}
    noise = 0.02 * rng.normal(size=(401, len(arms), 1))
    noise[0] = 0
    good = np.array([truth[arm.kind] for arm in arms])[None, :, None] + noise
    said = conclusion(arms, good, [], [], 50)
    assert [sentence.split(":")[0] for sentence in said] == [
        "The chosen range beats the mean of the 5 other windows",
        "The chosen range loses to all layers at the same rank, 6 x its parameters",
        "The chosen range ties with all layers with as many parameters",
        "Every arm has one seed",
    ]
    assert "+20.0 [" in said[0]
    assert "cannot be distinguished from" in conclusion(arms, good, [], [], 4)[0]


@pytest.mark.parametrize(
    ("writers", "span", "said"),
    [
        ([4, 5], [2, 3, 4, 5], ["the layers from the gate's feature to the last", "the layers that write"]),
        ([4, 5], [2, 4, 5], ["both ends of the gate, the layer of its feature", "the layers that write"]),
        # The window 3-4 is an arm of the gate too, and so is the chosen range, which has nothing to be compared with.
        ([3, 4], [3, 4], ["the mean of the 4 other", "the layers from the gate's feature", "the layers that write"]),
        ([0, 1], [0, 1], ["the mean of the 4 other"]),
    ],
)
def test_the_conclusion_names_the_layers_of_the_gate_as_they_are(writers, span, said):
    gate = GateEntry(feature=7, read_layer=span[0], write_layers=writers, span=span)
    kinds = ("writers", "feature-to-writer") + (("window",) if "mean" in said[0] else ())
    arms = plan_arms([0, 1], dict.fromkeys(range(6), 1), AblationSettings(kinds=kinds), gate)
    good = np.full((3, len(arms), 1), 0.5)
    good[:, [place for place, arm in enumerate(arms) if "writers" in (arm.kind, *arm.also)]] = 0.4
    found = [sentence.removeprefix("The chosen range ") for sentence in conclusion(arms, good, [], [], 50)[:-1]]
    assert len(found) == len(said)
    for sentence, name in zip(found, said, strict=True):
        assert f" {name}" in sentence
        assert sentence.startswith("beats") or name != "the layers that write"


@pytest.mark.parametrize(
    ("regret", "said"),
    [
        ((-0.05, -0.08, -0.02), "No better window was found by picking the best: "),
        ((0.01, -0.02, 0.04), "No better window is shown: "),
        ((0.05, 0.02, 0.08), "A better window is shown: "),
        ((0.05, np.nan, np.nan), "No better window is shown: "),
    ],
)
def test_no_regret_says_that_the_range_beats_the_best_window(regret, said):
    arms = plan_arms([0], dict.fromkeys(range(3), 1), AblationSettings(kinds=("window",)))
    cost = WindowRegret(COMBINED, 1, 0.0, Estimate(*regret), [], Estimate(*regret), np.array([0.5, 0.5]))
    first, *_ = conclusion(arms, np.full((3, len(arms), 1), 0.5), [cost], [], 50)
    assert first.startswith(said)
    assert "beats" not in first
    assert f"by {100 * regret[0]:+.1f}" in first
    assert "+nan" not in first


def told(score, rho, p):
    return ProfileValidity(score, COMBINED, 9, Estimate(rho, rho, rho), p)


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ([told("flip AUC", 0.2, 0.4), told("depth", -0.9, 0.01)], "no score of the profile is shown to predict"),
        ([told("flip AUC", 0.9, 0.01), told("depth", -0.2, 0.4)], "windows of higher flip AUC did better; rank"),
        (
            [told("flip AUC", 0.8, 0.01), told("depth", -0.9, 0.01)],
            "did better, but depth alone predicts as much; rank",
        ),
        (
            [told("flip AUC", 0.8, 0.01), told("write, net", -0.8, 0.01), told("depth", 0.1, 0.9)],
            "higher flip AUC did better and windows of higher write, net did worse; rank",
        ),
    ],
)
def test_the_conclusion_on_the_profile(scores, said):
    arms = plan_arms([0], {0: 1}, AblationSettings(kinds=()))
    (sentence,) = conclusion(arms, np.zeros((11, 1, 2)), [], scores, 50)
    assert said in sentence


def test_questions_that_cannot_compare_arms_are_refused():
    line = {
        "id": "1",
        "image": "1.png",
        "type": "view",
        "question": "q",
        "answer": "pa",
        "paraphrases": [{"text": "p"}],
    }
    for changes in ({}, {"type": "presence", "answer": "yes", "paraphrases": []}, {"type": "presence", "answer": None}):
        with pytest.raises(InputError, match="could not be compared"):
            held_out_questions([Question.model_validate(line | changes)])
    with pytest.raises(InputError, match="None of the 0 questions"):
        held_out_questions([])
    assert isinstance(
        held_out_questions([Question.model_validate(line | {"type": "presence", "answer": "no"})]), HeldOutQuestions
    )

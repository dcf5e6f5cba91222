"""The ablation: its arms by hand, its statistics against known truths and slow loops, its folder when interrupted."""

import dataclasses
import itertools
import json
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from finetune_world import UNSEEN, WORDINGS, make_world
from scipy import stats
from test_finetune_cli import layers_json
from test_finetune_measures import answered

from finetune import cli
from finetune.ablate import outcomes as outcomes_module
from finetune.ablate.conclusion import conclusion
from finetune.ablate.outcomes import (
    COMBINED,
    METRICS,
    Asked,
    Outcomes,
    asked_of,
    drawn_patients,
    estimate,
    outcomes,
    sums_of,
    value_of,
)
from finetune.ablate.plan import AblationSettings, parameters_a_rank, plan_arms, random_sets
from finetune.ablate.regret import goodness, ranks, regrets
from finetune.ablate.worth import Worth, rank_correlation, worths
from finetune.lora import add_lora, trainable_parameters
from finetune.measures import MEASURES
from finetune.plan import plan_steps
from finetune.settings import TrainSettings
from finetune.sheet import Sheet, Subset
from finetune.train import accelerator_for, train
from interp.artifact import ProfileEntry
from interp.errors import InputError
from interp.questions import Question, load_questions
from interp.statistics import Estimate, pooled_over_seeds
from interp.vlm import load_vlm

TINY = [100] * 10


def planned(chosen=(4, 5), a_rank=TINY, **changes):
    return plan_arms(chosen, a_rank, AblationSettings(**changes))


def of_kind(arms, kind):
    return [arm for arm in arms if arm.kind == kind]


# The plan.


def test_every_other_window_and_a_stride_of_them():
    windows = [arm.layers for arm in of_kind(planned(), "window")]
    assert windows == [(0, 1), (1, 2), (2, 3), (3, 4), (5, 6), (6, 7), (7, 8), (8, 9)]
    assert [arm.layers for arm in of_kind(planned(stride=3), "window")] == [(0, 1), (3, 4), (6, 7)]
    assert planned()[0].layers == (4, 5)
    assert planned()[0].kind == "chosen"
    # A range with gaps is no window, so all windows are others.
    assert len(of_kind(planned(chosen=(2, 7)), "window")) == 9


def test_thirds_and_all_layers_are_matched_in_parameters():
    arms = planned()
    # 16 x 2 layers x 100 = 3,200 to be met by 4, 3 and 3 layers: ranks 8, 10.67 and 10.67; by all ten: 3.2
    found = [(a.layers, a.training.rank, a.training.alpha, a.parameters) for a in of_kind(arms, "third")]
    assert found == [((0, 1, 2, 3), 8, 16, 3200), ((4, 5, 6), 11, 22, 3300), ((7, 8, 9), 11, 22, 3300)]
    (same,), (matched,) = of_kind(arms, "all"), of_kind(arms, "all-matched")
    assert (same.training.rank, same.parameters) == (16, 16000)
    assert (matched.training.rank, matched.training.alpha, matched.parameters) == (3, 6, 3000)
    # Never below 1, however many layers there are; layers of other sizes count as what they are.
    assert of_kind(planned(training=TrainSettings(rank=1)), "all-matched")[0].training.rank == 1
    assert [a.training.rank for a in of_kind(planned((0,), [4, 2, 1]), "third")] == [16, 32, 64]


def test_all_else_is_the_same_but_for_what_the_arm_says():
    training = TrainSettings(rank=4, alpha=6, lr=1e-3, epochs=2)
    for arm in planned(training=training):
        expected = {"no-consistency": {"consistency_weight": 0.0}, "consistency-only": {"answer_weight": 0.0}}
        changed = expected.get(arm.kind, {})
        if arm.kind in ("third", "all-matched"):
            changed = {"rank": arm.training.rank, "alpha": arm.training.alpha}
            assert abs(arm.training.alpha / arm.training.rank - 1.5) <= 0.5 / arm.training.rank + 1e-12
        assert arm.training == dataclasses.replace(training, **changed), arm.name
    names = [arm.name for arm in planned()]
    assert len(set(names)) == len(names)


def test_random_sets_are_of_the_same_size_and_no_other_arm():
    arms = planned(random=5)
    found = [arm.layers for arm in of_kind(arms, "random")]
    assert len(set(found)) == 5
    for layers in found:
        assert len(layers) == 2
        assert layers[1] > layers[0] + 1, "two neighbours are a window"
    assert found == [arm.layers for arm in of_kind(planned(random=5), "random")]
    assert found != [arm.layers for arm in of_kind(planned(random=5, seed=1), "random")]
    # Of 3 layers one set of two is no window.
    assert random_sets(2, 3, 4, [(0, 1), (1, 2)], seed=0) == [(0, 2)]


def test_kinds_can_be_left_out():
    assert {arm.kind for arm in planned(kinds=("window", "all"))} == {"chosen", "window", "all"}


@pytest.mark.parametrize(
    "changes", [{"seeds": ()}, {"seeds": (1, 1)}, {"kinds": ("windows",)}, {"stride": 0}, {"random": -1}]
)
def test_settings_out_of_range_are_refused(changes):
    with pytest.raises(InputError, match=f"{next(iter(changes))}|--arms windows"):
        AblationSettings(**changes)


def test_parameter_counts_are_those_of_the_adapters(tiny_model):
    vlm = load_vlm(tiny_model, "cpu", "float32")
    arms = plan_arms([1, 2], parameters_a_rank(vlm.model), AblationSettings(TrainSettings(rank=3, alpha=6)))
    for arm in arms:
        adapted = add_lora(vlm, arm.layers, arm.training.rank, arm.training.alpha)
        assert trainable_parameters(adapted) == arm.parameters, arm.name
        adapted.unload()


# Statistics, on answers with a known truth.


def asked_for(patients, paraphrases=2):
    extra = [{"text": f"p{k}"} for k in range(paraphrases)]
    lines = [
        {"id": f"{i}", "image": f"{i}.png", "type": "presence", "question": "q", "answer": "yes", "paraphrases": extra}
        for i in range(patients)
    ]
    return asked_of([Question.model_validate(line) for line in lines])


def sheet_of(asked):
    everything = Subset("all", "all", np.ones(len(asked.prompts), bool), np.ones(len(asked.pairs), bool))
    return Sheet(asked.prompts, asked.pairs, everything)


def with_flips(asked, flips):
    """Right answers but for the last wording of the questions that `flips` [patients]; blanks say no."""
    margin = np.ones(len(asked.prompts))
    variants = int(asked.prompts["variant"].max()) + 1
    margin[variants - 1 :: variants] = np.where(flips, -1.0, 1.0)
    questions = asked.prompts["variant"].eq(0).sum()
    return answered(sheet_of(asked), margin, grey=-np.ones(questions), other_blanks=-np.ones(questions))


def draws_of(windows, asked, seed=0):
    base = with_flips(asked, np.zeros(len(asked.patients), bool))
    return sums_of(asked, base, windows), drawn_patients(len(asked.patients), seed)


def test_the_metrics_and_the_combined_score_by_hand():
    asked = asked_for(4)
    sheet = sheet_of(asked)
    base = answered(sheet, np.ones(12), grey=[-1, -1, -1, 1], other_blanks=[-1, -1, -1, 1])
    # One of four questions flips, so 11 of 12 wordings are right; blanks agree in two questions more than in the base.
    flips = with_flips(asked, [True, False, False, False])
    blank = {
        kind: np.where(np.isnan(m), m, np.where(asked.prompts["question"] > 0, 1.0, -1.0))
        for kind, m in flips.blank_margin.items()
    }
    blind = flips._replace(blank_margin=blank)
    found = outcomes(sums_of(asked, base, [[flips], [blind]]), np.ones((1, 4)))
    assert found.base[COMBINED][0] == pytest.approx(1.0)
    assert found.base["text_only_agreement"][0] == 0.25
    # Less agreement than the base earns nothing.
    assert found.arms[COMBINED][0, :, 0] == pytest.approx([11 / 12 - 1 / 4, 11 / 12 - 1 / 4 - 0.5])
    for metric in set(METRICS) - {COMBINED}:
        measure = MEASURES[metric]
        for place, answers in enumerate((flips, blind)):
            expected = measure.statistic(measure.units(sheet, answers).columns.sum(0))
            assert found.arms[metric][0, place, 0] == pytest.approx(expected), metric
            assert value_of(asked, answers, metric) == pytest.approx(expected)


def test_intervals_are_those_of_pooling_over_seeds():
    asked = asked_for(40)
    rng = np.random.default_rng(0)
    seeds = [with_flips(asked, rng.random(40) < share) for share in (0.2, 0.3, 0.25)]
    base = with_flips(asked, rng.random(40) < 0.5)
    found = outcomes(sums_of(asked, base, [seeds]), drawn_patients(40, 5))
    measure = MEASURES["question_flip_rate"]
    units = [measure.units(sheet_of(asked), answers) for answers in (base, *seeds)]
    columns = [each.columns for each in units]
    expected = pooled_over_seeds(
        measure.statistic, columns[0], columns[1:], [each.patients for each in units], 5, outcomes_module.DRAWS
    )
    values = found.arms["question_flip_rate"][:, 0]
    assert estimate(values, 40) == pytest.approx(expected.after)
    assert estimate(values - found.base["question_flip_rate"][:, None], 40) == pytest.approx(expected.difference)
    assert np.isnan(estimate(values, 4).low), "no interval for four patients"


def test_a_known_regret_and_its_ranks():
    """Four windows flip in 0, 10, 40 and 40% of the questions; the last one was chosen."""
    asked = asked_for(200)
    rng = np.random.default_rng(1)
    order = [rng.permutation(200) for _ in range(4)]
    windows = [[with_flips(asked, each < 200 * share)] for each, share in zip(order, (0, 0.1, 0.4, 0.4), strict=True)]
    sums, weights = draws_of(windows, asked)
    cost = {each.metric: each for each in regrets(sums, 3, 200, 0)}["question_flip_rate"]
    assert (cost.best, cost.optimistic) == (0, pytest.approx(0.4))
    assert cost.picked.tolist() == pytest.approx([1, 0, 0, 0])
    # All halves together hold every patient once, and the best one is always the same.
    assert cost.regret.value == pytest.approx(0.4, abs=1e-9)
    spread = np.sqrt(0.4 * 0.6 / 200)
    assert cost.regret.high - cost.regret.low == pytest.approx(3.92 * spread, rel=0.15)
    good = goodness(outcomes(sums, weights), "question_flip_rate")
    assert [tuple(place) for place in ranks(good, 200)] == [(1, 1), (2, 2), (3, 4), (3, 4)]
    # Of the best one itself nothing is lost.
    own = {each.metric: each for each in regrets(sums, 0, 200, 0)}["question_flip_rate"]
    assert own.regret == pytest.approx((0, 0, 0))


def test_arms_that_do_the_same_are_tied_and_cost_nothing():
    asked = asked_for(30)
    rng = np.random.default_rng(2)
    seeds = [with_flips(asked, rng.random(30) < 0.4) for _ in range(2)]
    sums, weights = draws_of([seeds] * 3, asked)
    for cost in regrets(sums, 1, 30, 0):
        if cost.metric != "swap_sensitivity":
            assert cost.regret == pytest.approx((0, 0, 0)), cost.metric
            assert cost.picked == pytest.approx([1 / 3] * 3)
    good = goodness(outcomes(sums, weights), COMBINED)
    assert [tuple(place) for place in ranks(good, 30)] == [(1, 3)] * 3


def test_regret_without_a_difference_is_centred_on_zero_where_the_optimistic_one_is_not(monkeypatch):
    """Eight windows of the same truth, 30 times: what is best by luck is no better on the others."""
    monkeypatch.setattr(outcomes_module, "DRAWS", 100)
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


def test_regret_against_slow_loops():
    asked = asked_for(12, paraphrases=1)
    rng = np.random.default_rng(4)
    flips = rng.random((3, 2, 12)) < 0.5
    sums, _ = draws_of([[with_flips(asked, each) for each in window] for window in flips], asked)
    cost = {each.metric: each for each in regrets(sums, 2, 12, 7)}["question_flip_rate"]
    # Patients come in the order of their names as text.
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


def test_rank_correlation_is_spearmans():
    rng = np.random.default_rng(5)
    a, b = rng.integers(0, 5, (2, 6, 9)).astype(float)
    expected = [stats.spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)]
    assert rank_correlation(a, b) == pytest.approx(expected)
    assert np.isnan(rank_correlation(np.ones(4), np.arange(4.0)))


def profile_of(auc, **others):
    """Profile entries with these flip AUCs, everything else the same in all layers."""
    same = {"value": 0.5, "low": 0.4, "high": 0.6}
    names = ("recovery", "control", "step", "write", "write_control", "net_write")
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


def test_what_a_profile_is_worth():
    auc = [0.5, 0.9, 0.6, 0.55, 0.8]
    windows = list(itertools.pairwise(range(5)))
    means = np.array([auc[a] + auc[b] for a, b in windows]) / 2
    good = {metric: sign * np.tile(means[None, :, None], (11, 1, 1)) for metric, sign in METRICS.items()}
    found = {(w.score, w.metric): w for w in worths(profile_of(auc), windows, Outcomes(good, {}), 30, 0)}
    for metric in METRICS:
        assert found["flip AUC", metric].rho == pytest.approx((1, 1, 1)), metric
        assert np.isnan(found["write, net", metric].rho.value), "the same in all layers"
        assert found["joint, net", metric].windows == 0
        assert found["depth", metric].rho.value == pytest.approx(stats.spearmanr(means, range(4)).statistic)
    # Exactly, over all orders of the five layers.
    null = [stats.spearmanr([p[a] + p[b] for a, b in windows], means).statistic for p in itertools.permutations(auc)]
    exact = np.mean(np.abs(null) > 1 - 1e-9)
    assert found["flip AUC", "accuracy"].p == pytest.approx(exact, abs=0.02)


def test_the_conclusion_says_beats_ties_and_loses():
    arms = plan_arms([0], [1] * 6, AblationSettings(kinds=("random", "window", "all", "all-matched")))
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
    assert "can not be told from" in conclusion(arms, good, [], [], 4)[0]


def told(score, rho, p):
    return Worth(score, COMBINED, 9, Estimate(rho, rho, rho), p)


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ([told("flip AUC", 0.2, 0.4), told("depth", -0.9, 0.01)], "no score of the profile is shown to tell"),
        ([told("flip AUC", 0.9, 0.01), told("depth", -0.2, 0.4)], "windows of higher flip AUC did better; rank"),
        ([told("flip AUC", 0.8, 0.01), told("depth", -0.9, 0.01)], "did better, but mere depth tells as much; rank"),
        (
            [told("flip AUC", 0.8, 0.01), told("write, net", -0.8, 0.01), told("depth", 0.1, 0.9)],
            "higher flip AUC did better and windows of higher write, net did worse; rank",
        ),
    ],
)
def test_the_conclusion_on_the_profile(scores, said):
    arms = plan_arms([0], [1] * 3, AblationSettings(kinds=()))
    (sentence,) = conclusion(arms, np.zeros((11, 1, 2)), [], scores, 50)
    assert said in sentence


# The loss without the answers.


def test_consistency_alone_knows_nothing_of_the_answers(tmp_path):
    torch.set_num_threads(1)
    world = make_world(tmp_path / "w", patients=4)
    taught = load_questions(world.questions, split="train")
    other = {"yes": "no", "no": "yes"}
    contrary = [q.model_copy(update={"answer": other.get(q.answer.lower(), q.answer)}) for q in taught]
    weights = {}
    for name, questions, weight in (
        ("own", taught, 0.0),
        ("contrary", contrary, 0.0),
        ("taught", taught, 1.0),
    ):
        vlm = load_vlm(world.model, "cpu", "float32")
        adapted = add_lora(vlm, [1], rank=2)
        settings = TrainSettings(rank=2, answer_weight=weight, lr=1e-2)
        history = train(vlm, adapted, plan_steps(questions, 1, 4, 0), settings, accelerator_for("cpu"))
        assert all(step.loss == pytest.approx(weight * step.ce + step.kl) for step in history)
        weights[name] = torch.cat([p.detach().flatten() for p in adapted.parameters() if p.requires_grad])
    assert torch.equal(weights["own"], weights["contrary"])
    assert not torch.equal(weights["own"], weights["taught"])
    with pytest.raises(InputError, match="answer_weight"):
        TrainSettings(answer_weight=-1.0)


# The command and its folder.


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    torch.set_num_threads(1)
    return make_world(tmp_path_factory.mktemp("ablate") / "world", patients=10)


def command(folder, world, *arguments):
    """Exit code of `finetune ablate`, run in `folder` on the tiny world, layers 1-2 of 3 being chosen."""
    entries = [entry.model_dump() for entry in profile_of([0.6, 0.8, 0.7])]
    (folder / "layers.json").write_text(layers_json(profile=entries))
    shared = ["--layers-from", "layers.json", "--model", world.model, "--questions", world.questions]
    shared += ["--device", "cpu", "--epochs", 1, "--lr", 0.005]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["finetune", "ablate", *map(str, shared), *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    return stopped.value.code or 0


@pytest.fixture
def run(capsys, tmp_path, world):
    """`command`; gives (exit code, stdout, stderr)."""

    def call(*arguments):
        code = command(tmp_path, world, *arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture(scope="module")
def finished(tmp_path_factory, world):
    """Folder of an ablation that was never interrupted."""
    folder = tmp_path_factory.mktemp("finished")
    assert command(folder, world, "--out", "whole", "--seeds", "0,1") == 0
    return folder / "whole"


def state(folder):
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in (folder / "arms").iterdir()}


def result(folder):
    """What the folder says, but for durations."""
    found = json.loads((folder / "ablation.json").read_text())
    for arm in found["arms"]:
        assert all(seconds >= 0 for seconds in arm.pop("seconds"))
    del found["settings"]["kinds"]
    return found


def test_an_interrupted_ablation_goes_on_and_ends_the_same(run, finished, tmp_path):
    part = tmp_path / "part"
    code, out, err = run("--out", part, "--seeds", "0", "--arms", "window,random")
    assert (code, err) == (0, "")
    before = state(part)
    assert sorted(before) == [
        "base.parquet",
        "chosen_1-2_seed0.parquet",
        "random_0_2_seed0.parquet",
        "window_0-1_seed0.parquet",
    ]
    code, out, _ = run("--out", part, "--seeds", "0,1")
    assert code == 0
    after = state(part)
    assert {name: after[name] for name in before} == before, "what was done was not done again"
    # Ten arms of two seeds and the base: chosen, window, three thirds, random, two of all, two halves of the loss.
    assert len(after) == 1 + 2 * 10
    assert f"{21 - 4} of 21 arms are to run" in out
    assert "17 of 17: chosen, consistency alone, seed 1: question flips" in out
    for words in ("regret", "The chosen range", "question flip rate", f"Wrote {part}"):
        assert words in out

    assert result(finished) == result(part)
    again = state(finished)
    code, out, _ = run("--out", finished, "--seeds", "0,1")
    assert code == 0
    assert "to run" not in out
    assert state(finished) == again
    assert sorted(p.name for p in finished.iterdir()) == ["ablation.json", "ablation.png", "arms"]


def test_the_result_is_of_the_arms_that_were_asked(finished, world):
    found = result(finished)
    asked = asked_of(load_questions(world.questions, split="test"))
    for arm in found["arms"]:
        name = f"{arm['kind']}_{'_'.join(_runs(arm['layers']))}"
        tables = [pd.read_parquet(finished / "arms" / f"{name}_seed{seed}.parquet") for seed in (0, 1)]
        flips = []
        for table in tables:
            yes = table["margin"].to_numpy() > 0
            differ = yes[asked.pairs["original"]] != yes[asked.pairs["paraphrase"]]
            flips.append(pd.Series(differ).groupby(asked.pairs["question"].to_numpy()).any().mean())
        assert arm["metrics"]["question_flip_rate"]["value"] == pytest.approx(np.mean(flips), abs=1e-6)
    assert {entry["metric"] for entry in found["regret"]} == set(METRICS)
    assert found["arms"][0]["against_chosen"]["accuracy"] == {"value": 0, "low": 0, "high": 0}
    alone = next(arm for arm in found["arms"] if arm["kind"] == "consistency-only")
    assert (alone["answer_weight"], alone["consistency_weight"]) == (0, 1)


def _runs(layers):
    return {(0, 1, 2): ["0-2"], (1, 2): ["1-2"], (0, 1): ["0-1"], (0, 2): ["0", "2"]}.get(
        tuple(layers), [str(layer) for layer in layers]
    )


def test_nothing_of_texts_paths_or_patients_is_kept(finished, world):
    private = [text for bank in (WORDINGS, UNSEEN) for texts in bank.values() for text in texts]
    private += [str(world.model.parent), "images/", "patient0", "patient1", ".png", '"0-presence']
    content = [(finished / "ablation.json").read_text()]
    for path in (finished / "arms").iterdir():
        table = pd.read_parquet(path)
        assert set(map(str, table.dtypes)) <= {"float32", "bool"}, "numbers alone"
        content.append(json.dumps(table.attrs))
        content.append(path.read_bytes().decode("latin-1"))
    for text in private:
        assert not any(text in each for each in content), text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lr", 0.001], "was made with lr 0.005, but now it is 0.001"),
        (["--rank", 4], "was made with rank 16, but now it is 4"),
        (["--limit", 6], "was made with test questions"),
        (["--seed", 1], "was made with evaluation seed 0"),
        (["--answer-instruction", "Answer yes or no."], "was made with prompt"),
    ],
)
def test_other_settings_or_data_are_refused(run, finished, options, message):
    before = state(finished)
    code, _, err = run("--out", finished, "--seeds", "0,1", *options)
    assert code == 2
    assert message in " ".join(err.split())
    assert state(finished) == before


def test_another_base_or_a_damaged_file_is_refused(run, finished, world, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    other = load_vlm(world.model, "cpu", "float32")
    other.model.model.language_model.layers[0].mlp.up_proj.weight.data += 1e-3
    other.model.save_pretrained(tmp_path / "model")
    other.processor.save_pretrained(tmp_path / "model")
    code, _, err = run("--out", copy, "--seeds", "0,1", "--model", tmp_path / "model")
    assert code == 2
    assert "was made with base weights" in " ".join(err.split())
    chosen = copy / "arms" / "chosen_1-2_seed0.parquet"
    chosen.write_bytes(chosen.read_bytes()[:200])
    code, _, err = run("--out", copy, "--seeds", "0,1")
    assert code == 2
    assert "chosen_1-2_seed0.parquet: not the answers of an arm" in " ".join(err.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seeds", "x"], "--seeds 'x': expected numbers with commas"),
        (["--seeds", "0,0"], "expected different ones"),
        (["--arms", "windows"], "--arms windows: expected some of chosen, window"),
        (["--layers-from", "absent.json"], "absent.json: no such file"),
        (["--test-split", "train"], "patients are in both"),
        (["--lr", "0"], "lr is 0.0"),
        (["--out", "used"], "already holds something"),
    ],
)
def test_bad_input_is_exit_code_2_and_writes_nothing(run, tmp_path, options, message):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").write_text("mine")
    code, _, err = run("--out", "new", *options)
    assert code == 2
    assert message in " ".join(err.split())
    assert not (tmp_path / "new").exists()
    assert [path.name for path in (tmp_path / "used").iterdir()] == ["mine.txt"]


def test_questions_that_can_not_tell_arms_apart_are_refused():
    line = {
        "id": "1",
        "image": "1.png",
        "type": "view",
        "question": "q",
        "answer": "pa",
        "paraphrases": [{"text": "p"}],
    }
    for changes in ({}, {"type": "presence", "answer": "yes", "paraphrases": []}, {"type": "presence", "answer": None}):
        with pytest.raises(InputError, match="could not be told apart"):
            asked_of([Question.model_validate(line | changes)])
    with pytest.raises(InputError, match="None of the 0 questions"):
        asked_of([])
    assert isinstance(asked_of([Question.model_validate(line | {"type": "presence", "answer": "no"})]), Asked)

"""The ablation: its arms against counts by hand, and its folder after an interruption or with other settings."""

import dataclasses
import json
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from finetune_world import UNSEEN, WORDINGS, make_world
from test_ablate_statistics import profile_of
from test_finetune_cli import layers_json

from finetune.ablation.metrics import METRICS, held_out_questions
from finetune.ablation.plan import plan_arms, random_sets
from finetune.ablation.settings import AblationSettings
from finetune.cli import app as cli
from finetune.lora.adapter_folder import load_adapter, read_record
from finetune.lora.modules import add_lora, parameters_per_rank, trainable_parameters
from finetune.lora.settings import TrainSettings
from finetune.training.batches import training_steps
from finetune.training.loop import accelerator_for, train
from interp.measurement.margins import measure
from interp.model.load import load_vlm
from interp.questions.files import load_questions
from interp.runtime.errors import InputError
from interp.schemas.layers import GateEntry
from interp.views.figures.redraw import drawings
from interp.views.figures.style import SCREEN, save_figure

TINY = [100] * 10


def planned(chosen=(4, 5), per_rank=TINY, **changes):
    return plan_arms(chosen, dict(enumerate(per_rank)), AblationSettings(**changes))


def of_kind(arms, kind):
    return [arm for arm in arms if arm.kind == kind]


# The planned arms.


def test_windows_are_all_other_runs_of_layers_at_the_stride():
    windows = [arm.layers for arm in of_kind(planned(), "window")]
    assert windows == [(0, 1), (1, 2), (2, 3), (3, 4), (5, 6), (6, 7), (7, 8), (8, 9)]
    assert [arm.layers for arm in of_kind(planned(stride=3), "window")] == [(0, 1), (3, 4), (6, 7)]
    assert planned()[0].layers == (4, 5)
    assert planned()[0].kind == "chosen"
    # A range with gaps equals no window, so there are nine other windows.
    assert len(of_kind(planned(chosen=(2, 7)), "window")) == 9


def test_thirds_and_all_layers_are_matched_in_parameters():
    arms = planned()
    # 16 x 2 layers x 100 = 3,200 parameters; 4, 3 and 3 layers need ranks 8, 10.67 and 10.67, all ten layers 3.2.
    found = [(a.layers, a.training.rank, a.training.alpha, a.parameters) for a in of_kind(arms, "third")]
    assert found == [((0, 1, 2, 3), 8, 16, 3200), ((4, 5, 6), 11, 22, 3300), ((7, 8, 9), 11, 22, 3300)]
    (same,), (matched,) = of_kind(arms, "all"), of_kind(arms, "all-matched")
    assert (same.training.rank, same.parameters) == (16, 16000)
    assert (matched.training.rank, matched.training.alpha, matched.parameters) == (3, 6, 3000)
    # A rank is never below 1; layers of different sizes count with their own size.
    assert of_kind(planned(training=TrainSettings(rank=1)), "all-matched")[0].training.rank == 1
    assert [a.training.rank for a in of_kind(planned((0,), [20, 10, 5]), "third")] == [16, 32, 64]


def test_arms_differ_from_the_chosen_range_only_in_what_their_kind_says():
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


def test_the_gate_of_layers_json_is_compared_from_both_ends():
    about = {"feature": 7, "read_layer": 2, "write_layers": [4, 5]}
    chosen, width = (4, 5), TINY
    arms = plan_arms(chosen, dict(enumerate(width)), AblationSettings(), GateEntry(**about, span=[2, 3, 4, 5]))
    (span,) = of_kind(arms, "feature-to-writer")
    # Twice as many layers at half the rank; the layers that write are the chosen range already.
    assert (span.layers, span.training.rank, span.parameters) == ((2, 3, 4, 5), 8, arms[0].parameters)
    assert of_kind(arms, "writers") == []
    arms = plan_arms((3,), dict(enumerate(width)), AblationSettings(), GateEntry(**about, span=[2, 4, 5]))
    assert [(arm.layers, arm.training.rank) for arm in of_kind(arms, "writers")] == [((4, 5), 8)]
    assert [arm.name for arm in of_kind(arms, "feature-to-writer")] == ["both ends 2, 4-5"]


def test_layers_of_the_gate_that_another_arm_trains_are_trained_once_under_both_names():
    about = {"feature": 7, "read_layer": 5}
    per_rank = dict(enumerate(TINY))
    gate = GateEntry(**about, write_layers=[5, 6], span=[5, 6])
    arms = plan_arms((4, 5), per_rank, AblationSettings(), gate)
    assert [(a.name, a.kind, a.also) for a in arms if a.layers == (5, 6)] == [
        ("window 5-6, feature-to-writer, writers", "window", ("feature-to-writer", "writers"))
    ]
    arms = plan_arms((4, 5), per_rank, AblationSettings(kinds=("writers",)), gate)
    assert [arm.name for arm in arms] == ["chosen 4-5", "writers 5-6"]
    arms = plan_arms((5, 6), per_rank, AblationSettings(kinds=("writers",)), gate)
    assert [arm.name for arm in arms] == ["chosen 5-6, writers"]
    # At another rank the same layers are another arm: 3 layers of 100 against 2 of 100 and 1 of 200.
    uneven = dict(enumerate([100, 100, 200, 100]))
    arms = plan_arms((0, 1), uneven, AblationSettings(), GateEntry(**about, write_layers=[1, 2], span=[1, 2]))
    assert [(a.name, a.training.rank) for a in arms if a.layers == (1, 2)] == [
        ("window 1-2", 16),
        ("feature-to-writer 1-2, writers", 11),
    ]
    # Of three layers one set of two is no window, and here it is the span.
    arms = plan_arms((0, 1), {0: 9, 1: 9, 2: 9}, AblationSettings(), GateEntry(**about, write_layers=[2], span=[0, 2]))
    assert of_kind(arms, "random") == []


def test_arms_of_a_gate_that_layers_json_does_not_name_are_refused_if_asked_for_by_name():
    old = GateEntry(feature=7, read_layer=2, write_layers=[4, 5])
    for gate, lacks in ((None, "names no gate"), (old, "no `span`.*find-features")):
        kinds = {arm.kind for arm in plan_arms((4, 5), dict(enumerate(TINY)), AblationSettings(), gate)}
        assert not kinds & {"feature-to-writer", "writers"}
        with pytest.raises(InputError, match=f"--arms feature-to-writer,writers: layers.json .*{lacks}"):
            plan_arms((4, 5), {}, AblationSettings(kinds=("writers", "feature-to-writer")), gate)
        assert len(plan_arms((4, 5), dict(enumerate(TINY)), AblationSettings(kinds=("all",)), gate)) == 2


def test_random_sets_have_the_same_size_and_repeat_no_other_arm():
    arms = planned(random=5)
    found = [arm.layers for arm in of_kind(arms, "random")]
    assert len(set(found)) == 5
    for layers in found:
        assert len(layers) == 2
        assert layers[1] > layers[0] + 1, "two adjacent layers are a window"
    assert found == [arm.layers for arm in of_kind(planned(random=5), "random")]
    assert found != [arm.layers for arm in of_kind(planned(random=5, seed=1), "random")]
    # Of three layers, only one set of two is not a window.
    assert random_sets(2, 3, 4, [(0, 1), (1, 2)], seed=0) == [(0, 2)]


def test_kinds_can_be_left_out():
    assert {arm.kind for arm in planned(kinds=("window", "all"))} == {"chosen", "window", "all"}


@pytest.mark.parametrize(
    "changes", [{"seeds": ()}, {"seeds": (1, 1)}, {"kinds": ("windows",)}, {"stride": 0}, {"random": -1}]
)
def test_settings_out_of_range_are_refused(changes):
    with pytest.raises(InputError, match=f"{next(iter(changes))}|--arms windows"):
        AblationSettings(**changes)


def test_planned_parameter_counts_equal_those_of_real_adapters(tiny_model):
    vlm = load_vlm(tiny_model, "cpu", "float32")
    arms = plan_arms([1, 2], parameters_per_rank(vlm.model), AblationSettings(TrainSettings(rank=3, alpha=6)))
    assert {"third", "all", "all-matched"} <= {arm.kind for arm in arms}
    for arm in arms:
        adapted = add_lora(vlm, arm.layers, arm.training.rank, arm.training.alpha)
        assert trainable_parameters(adapted) == arm.parameters, arm.name
        adapted.unload()


# The loss without the cross-entropy of the answers.


def test_consistency_alone_does_not_depend_on_the_answers(tmp_path):
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
        history = train(vlm, adapted, training_steps(questions, 1, 4, 0), settings, accelerator_for("cpu"))
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
    """Run `finetune ablate` in `folder` on the tiny world with layers 1-2 of 3 chosen; return the exit code."""
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
    """Call `command`; returns (exit code, stdout, stderr)."""

    def call(*arguments):
        code = command(tmp_path, world, *arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture(scope="module")
def finished(tmp_path_factory, world):
    """The folder of an uninterrupted ablation."""
    folder = tmp_path_factory.mktemp("finished")
    assert command(folder, world, "--out", "whole", "--seeds", "0,1") == 0
    return folder / "whole"


def state(folder):
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in (folder / "arms").iterdir()}


def result(folder):
    """Return ablation.json without durations."""
    found = json.loads((folder / "ablation.json").read_text())
    for arm in found["arms"]:
        assert all(seconds >= 0 for seconds in arm.pop("seconds"))
    del found["settings"]["kinds"]
    return found


def test_an_interrupted_ablation_resumes_to_the_same_result(run, finished, tmp_path):
    part = tmp_path / "part"
    code, out, err = run("--out", part, "--seeds", "0", "--arms", "window,random")
    assert (code, "error" in err) == (0, False)
    before = state(part)
    assert sorted(before) == [
        "base.parquet",
        "chosen_1-2_seed0.parquet",
        "random_0_2_seed0.parquet",
        "window_0-1_seed0.parquet",
    ]
    code, out, err = run("--out", part, "--seeds", "0,1")
    assert code == 0
    after = state(part)
    assert {name: after[name] for name in before} == before, "finished arms were not run again"
    # The base, and two seeds of ten arms: chosen, window, three thirds, random, two of all layers, two halves of the
    # loss.
    assert len(after) == 1 + 2 * 10
    assert f"{21 - 4} of 21 arms are to run" in err
    assert "17 of 17: chosen, consistency alone, seed 1: question flips" in err
    for words in ("regret", "The chosen range", "question flip rate", f"Wrote {part}"):
        assert words in out

    whole, resumed = result(finished), result(part)
    # The provenance is that of the process which began to measure.
    assert "--seeds 0,1" in whole.pop("provenance")["command"]
    assert "--seeds 0 " in resumed.pop("provenance")["command"]
    assert whole == resumed
    again = state(finished)
    code, _, err = run("--out", finished, "--seeds", "0,1")
    assert code == 0
    assert "to run" not in err
    assert state(finished) == again
    figure = [f"ablation{end}" for end in (".csv", ".png", ".svg")]
    assert {p.name for p in finished.iterdir()} == {"ablation.json", "arms", *figure}
    (drawing,) = drawings(finished)
    svg = save_figure(drawing.draw(SCREEN), tmp_path / "again", drawing.frame)[0]
    assert svg.read_bytes() == (finished / "ablation.svg").read_bytes()
    drawn = pd.read_csv(finished / "ablation.csv").set_index(["arm", "metric"])
    for arm in result(finished)["arms"]:
        assert drawn.loc[(arm["name"], "accuracy"), "low"] == arm["metrics"]["accuracy"]["low"]


def test_results_equal_flip_rates_computed_from_the_arms_files(finished, world):
    found = result(finished)
    asked = held_out_questions(load_questions(world.questions, split="test"))
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


def test_kept_adapters_reproduce_the_arms_answers(run, finished, world, tmp_path):
    out = tmp_path / "kept"
    assert run("--out", out, "--seeds", "0", "--arms", "window,all-matched")[0] == 0
    assert not (out / "adapters").exists()
    code, _, err = run("--out", out, "--seeds", "0", "--arms", "window,all-matched", "--keep-adapters")
    assert code == 0
    # The answers exist, but the adapters do not.
    assert "3 of 4 arms are to run" in err
    folders = sorted(path.name for path in (out / "adapters").iterdir())
    assert folders == ["all-matched_0-2_seed0", "chosen_1-2_seed0", "window_0-1_seed0"]
    questions = load_questions(world.questions, split="test")
    for name in folders:
        vlm = load_vlm(str(world.model), "cpu")
        load_adapter(vlm, out / "adapters" / name)
        record = read_record(out / "adapters" / name)
        assert record.layers == [int(n) for n in (range(3) if "0-2" in name else name.split("_")[1].split("-"))]
        prompts = held_out_questions(questions).prompts
        told = pd.read_parquet(finished / "arms" / f"{name}.parquet")["margin"].to_numpy()
        margin = measure(vlm, prompts).margin.numpy()
        assert margin == pytest.approx(told[: len(prompts)], abs=1e-5)
        text = "".join(p.read_text() for p in (out / "adapters" / name).glob("*.[jc]s*"))
        assert "patient0" not in text
        assert str(world.questions.parent) not in text.replace(str(world.model), "")
    assert run("--out", out, "--seeds", "0", "--arms", "window,all-matched", "--keep-adapters")[0] == 0


def test_no_text_path_or_patient_is_written(finished, world):
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
def test_a_folder_made_with_other_settings_or_data_is_refused(run, finished, options, message):
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
        (["--seeds", "x"], "--seeds 'x': expected numbers of at most 9 digits, separated by commas"),
        (["--seeds", "0,0"], "expected different ones"),
        (["--arms", "windows"], "--arms windows: expected some of chosen, window"),
        (["--layers-from", "absent.json"], "absent.json: no such file"),
        (["--test-split", "train"], "patients are in both"),
        (["--lr", "0"], "lr is 0.0"),
        (["--out", "used"], "already exists"),
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

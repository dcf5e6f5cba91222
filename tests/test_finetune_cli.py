import json
import shutil
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from finetune_world import make_world

from finetune.lora.layers import MEANINGS, choose_layers, read_choice, verdict_line
from interp.saes.sae import Sae, save_sae
from interp.schemas.layers import SCHEMA_VERSION, TRAINABLE


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    torch.set_num_threads(1)
    return make_world(tmp_path_factory.mktemp("cli") / "world", patients=4)


@pytest.fixture
def run(called, monkeypatch, tmp_path):
    """Run `finetune` in an empty folder; gives (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    return partial(called, "finetune")


def layers_json(**changes):
    interval = {"value": 0.1, "low": 0.0, "high": 0.2}
    data = {"fingerprint": "ab", "split": "test", "questions": 1, "pairs": 1, "patients": 1, "flips": 1, "flip_bank": 1}
    data |= {"question_flip_rate": interval, "pairwise_flip_rate": interval, "accuracy": interval}
    content = {
        "schema_version": 1,
        "verdict": "gate found",
        "reason": "Layer 1 beats its controls.",
        "layers": [1, 2],
        "peak": 1,
        "rule": "growth",
        "ranges": [],
        "model": {"id": "model", "revision": None, "n_layers": 3, "d_model": 32, "dtype": "float32"},
        "saes": {},
        "data": data,
        "profile": [],
        "features": [],
        "settings": {},
        "seed": 0,
        "software": {},
    }
    return json.dumps(content | changes)


def options(world, *more):
    shared = ["--model", world.model, "--questions", world.questions, "--device", "cpu"]
    return [*shared, "--epochs", 1, "--limit", 4, *more]


def test_train_from_layers_json_then_evaluate(run, world, tmp_path):
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "layers.json").write_text(layers_json())
    code, out, told = run(*options(world, "--full"))
    assert code == 0
    assert "layers.json: gate found; training layers 1-2, where the flips arise.\n" in told
    folder = tmp_path / "artifacts" / "adapter"
    assert sorted(p.name for p in (tmp_path / "artifacts").iterdir()) == ["adapter", "layers.json"]
    record = json.loads((folder / "gatescope.json").read_text())
    assert record["layers"] == [1, 2]
    chosen_by = "layers.json, gate found, rule growth, questions ab (test split)"
    assert record["layers_from"] == chosen_by
    assert chosen_by in (folder / "README.md").read_text()
    saved = json.loads((folder / "evaluation.json").read_text())
    for wanted in (
        "question flip rate",
        "text-only agreement",
        "dangerous",
        "By group",
        "first-token accuracy",
        "adapter",
        saved["verdict"][:30],
    ):
        assert wanted in out

    code, out, _ = run(
        "evaluate", folder, "--questions", world.questions, "--device", "cpu", "--limit", 4, "--json", "--out", "e.json"
    )
    assert code == 0
    again = json.loads(out)
    assert again["comparisons"] == saved["comparisons"]
    assert json.loads((tmp_path / "e.json").read_text()) == again


OTHER = {"id": "other", "revision": None, "n_layers": 3, "d_model": 32, "dtype": "float32"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (layers_json(model=OTHER), "made on other (3 layers of width 32)"),
        (layers_json(model=OTHER | {"id": "model", "n_layers": 9}), "9 layers of width 32"),
        (layers_json(model=OTHER | {"id": "model", "d_model": 64}), "3 layers of width 64"),
        (layers_json(schema_version=SCHEMA_VERSION + 1), f"schema version {SCHEMA_VERSION + 1}"),
        (layers_json(verdict="no gate found", layers=[]), "name layers yourself with --layers"),
        (layers_json(verdict="too few flips", layers=[]), "'too few flips' (Layer 1 beats its controls), so"),
        (layers_json(seed="x"), "field seed"),
        ("{", "not JSON"),
        (None, "no such file"),
    ],
)
def test_a_layers_json_that_does_not_fit(run, world, tmp_path, content, message):
    path = tmp_path / "layers.json"
    if content is not None:
        path.write_text(content)
    before = sorted(tmp_path.iterdir())
    assert_error(run(*options(world, "--layers-from", path)), message)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("verdict", "says"),
    [
        ("gate found", "training layers 1, 3-4, where the flips arise"),
        ("as answers form", "training layers 1, 3-4, where the flips arise, but so does every answer"),
        ("arrives from the question", "training layers 1, 3-4, where the difference reaches the final token"),
        (
            "spread over layers",
            "training the layers that matter, 1, 3-4, since no short range of layers makes the flips",
        ),
    ],
)
def test_every_verdict_that_names_layers_is_trained_on_and_said(tmp_path, verdict, says):
    path = tmp_path / "layers.json"
    model = OTHER | {"n_layers": 6}
    path.write_text(layers_json(verdict=verdict, layers=[1, 3, 4], schema_version=3, rule="answer", model=model))
    found = read_choice(None, path)
    assert verdict_line(found) == f"layers.json: {verdict}; {says}."
    choice = choose_layers(SimpleNamespace(name="other", n_layers=6, d_model=32), found)
    assert choice == ([1, 3, 4], f"layers.json, {verdict}, rule answer, questions ab (test split)", None)


def test_every_verdict_that_names_layers_has_a_meaning():
    assert set(MEANINGS) == set(TRAINABLE)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "Run `interp find-features` first"),
        (["--layers", "1", "--layers-from", "x.json"], "exactly one of"),
        (["--layers", "1-3"], "layers 0 to 2"),
        (["--layers", "one"], "15-19"),
        (["--layers", "1", "--lr", "0"], "lr is 0"),
        (["--layers", "1", "--questions", "absent.jsonl"], "no such file"),
        (["--layers", "1", "--model", "./not/a/model"], "./not/a/model"),
        (["--layers", "1", "--device", "tpu"], "--device tpu"),
        (["--layers", "1", "--test-split", "all"], "held-out"),
        (["--layers", "1", "--out", "used"], "already exists"),
    ],
)
def test_a_mistake_is_one_paragraph_and_leaves_nothing(run, world, tmp_path, more, message):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").write_text("kept")
    assert_error(run(*options(world, *more)), message)
    assert [p.name for p in tmp_path.iterdir()] == ["used"]
    assert (tmp_path / "used" / "mine.txt").read_text() == "kept"


def test_a_failure_while_evaluating_leaves_what_was_trained(run, world, tmp_path, monkeypatch):
    from finetune.training import run as job
    from interp.runtime.errors import InputError

    def broken(*arguments):
        raise InputError("The margin of prompt 0 is not finite.")

    with monkeypatch.context() as patch:
        patch.setattr(job, "evaluate", broken)
        failed = run(*options(world, "--layers", "1", "--out", "adapter"))
    assert_error(failed, "not finite")
    assert "give the same command with --resume" in failed[2]
    assert [path.name for path in tmp_path.iterdir()] == ["adapter.partial"]
    assert_error(run(*options(world, "--layers", "1", "--out", "adapter")), "Add --resume to continue it, or")
    monkeypatch.setattr("finetune.training.loop.PrefixStates", None)
    code, _, err = run(*options(world, "--layers", "1", "--out", "adapter", "--resume"))
    assert (code, err) == (0, "Resuming after step 1 of 1.\n"), "nothing is trained again"
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_evaluate_refuses_what_is_no_adapter(run, world, tmp_path):
    assert_error(run("evaluate", tmp_path, "--questions", world.questions), "no adapter_config.json")


@pytest.fixture(scope="module")
def saes(tmp_path_factory):
    """Random SAEs of layers 0 and 1, whose features are always active."""
    folder = tmp_path_factory.mktemp("saes")
    generator = torch.Generator().manual_seed(0)
    for layer in (0, 1):
        w_enc, w_dec = (torch.randn(shape, generator=generator) for shape in ((32, 8), (8, 32)))
        sae = Sae(layer, "", w_enc / 8, torch.full((8,), 5.0), w_dec, torch.zeros(32), torch.zeros(8))
        save_sae(sae, folder / f"layer_{layer}_width_16k_l0_small", "tiny", torch.float32)
    return folder


def test_doses_of_one_feature_are_arms_of_their_own(run, world, saes):
    held = ["--clamp", "1:3=0", "--clamp", "1:3=20", "--saes", saes]
    shared = ["--questions", world.questions, "--device", "cpu", "--limit", 4, "--new-tokens", 0, "--json"]
    code, out, err = run("evaluate", "--model", world.model, *held, *shared)
    assert code == 0, err
    arms = json.loads(out)["arms"]
    assert {name: [clamp["value"] for clamp in arms[name]] for name in arms} == {
        "base": [],
        "clamp 1:3=0": [0.0],
        "clamp 1:3=20": [20.0],
    }


def test_an_adapter_is_not_taken_for_the_base(run, world):
    assert run(*options(world, "--layers", 1, "--out", "base"))[0] == 0
    code, _, err = run("evaluate", "base", "--questions", world.questions, "--device", "cpu")
    assert (code, "Two arms are named 'base'" in err) == (2, True)


def test_an_option_before_the_command_that_it_is_for_is_refused(run):
    code, _, err = run("--json", "evaluate", "somewhere")
    assert (code, "--json stands before evaluate" in err) == (2, True)


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ({"modules_to_save": ["norm"]}, "norm.weight"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "'layer_replication' repeats layers of the model"),
        ({"init_lora_weights": "pissa"}, "path_initial_model_for_weight_conversion"),
    ],
)
def test_an_adapter_that_its_weights_do_not_describe_is_refused(run, world, field, expected, tmp_path):
    assert run(*options(world, "--layers", 1, "--out", "plain"))[0] == 0
    (tmp_path / "plain" / "manifest.json").unlink()
    path = tmp_path / "plain" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | field))
    code, _, err = run("evaluate", "plain", "--questions", world.questions, "--device", "cpu")
    assert (code, expected in err) == (2, True)


def test_adapters_and_clamps_side_by_side(run, world, saes, tmp_path):
    shared = ["--questions", world.questions, "--device", "cpu", "--limit", 4, "--json"]
    for layer in (1, 2):
        assert run(*options(world, "--layers", layer, "--out", f"layer-{layer}"))[0] == 0
    held = ["--clamp", "1:3,0:5=2.5", "--clamp", "1:4", "--saes", saes, "--clamp-at", "all"]
    results = {
        "adapters": run("evaluate", "layer-1", "layer-2", *shared),
        "clamps": run("evaluate", "--model", world.model, *held, *shared, "--out", "c.json"),
        "all": run("evaluate", "layer-1", "layer-2", *held, *shared),
    }
    found = {}
    for name, (code, out, err) in results.items():
        assert code == 0, err
        found[name] = json.loads(out)
    assert json.loads((tmp_path / "c.json").read_text()) == found["clamps"]
    assert list(found["all"]["arms"]) == ["base", "layer-1", "layer-2", "clamp 0:5,1:3", "clamp 1:4"]
    assert list(found["all"]["verdicts"]) == list(found["all"]["arms"])[1:]
    assert found["adapters"]["controls"] == {}
    used = {f for c in found["clamps"]["controls"]["clamp 0:5,1:3"] for f in c["features"]}
    assert used.isdisjoint({"1:3", "0:5"})
    assert found["clamps"]["arms"]["clamp 0:5,1:3"] == [
        {"layer": 0, "feature": 5, "value": 2.5, "where": "all", "sae": "layer_0_width_16k_l0_small"},
        {"layer": 1, "feature": 3, "value": 0.0, "where": "all", "sae": "layer_1_width_16k_l0_small"},
    ]
    # Each arm is the same with and without the others: no adapter stays in the model, and no clamp in the adapters.
    together = overall(found["all"], "after")
    assert overall(found["adapters"], "after") | overall(found["clamps"], "after") == pytest.approx(together, abs=1e-6)
    assert len({round(together[arm, "margin_difference"], 6) for arm in found["all"]["verdicts"]}) == 4
    bases = overall(found["all"], "before")
    assert len({round(bases[arm, "margin_difference"], 6) for arm in found["all"]["verdicts"]}) == 1
    couples = {(c["reference"], c["arm"]) for c in found["adapters"]["comparisons"]}
    assert couples == {("base", "layer-1"), ("base", "layer-2"), ("layer-1", "layer-2")}


def overall(content, estimate):
    return {
        (c["arm"], c["measure"]): c[estimate]["value"]
        for c in content["comparisons"]
        if c["kind"] == "all" and c["reference"] == "base" and c[estimate]["value"] is not None
    }


def test_seeds_of_one_recipe_are_pooled(run, world, tmp_path):
    shared = ["--questions", world.questions, "--device", "cpu"]
    for seed in (0, 1, 2):
        assert run(*options(world, "--layers", 1, "--seed", seed, "--out", f"runs/{seed}/adapter"))[0] == 0
    assert run(*options(world, "--layers", 2, "--out", "other"))[0] == 0
    folders = [f"runs/{seed}/adapter" for seed in (0, 1, 2)]
    code, out, _ = run("evaluate", *folders, "other", *shared, "--json")
    assert code == 0
    found = json.loads(out)
    assert list(found["arms"])[1:4] == ["0/adapter", "1/adapter", "2/adapter"]
    pool = "layers 1 (3 seeds)"
    assert found["pools"] == {pool: ["0/adapter", "1/adapter", "2/adapter"]}
    each, base = overall(found, "after"), overall(found, "before")
    for measure in ("margin_difference", "accuracy", "margin_auc", "calibration_error"):
        seeds = [each[name, measure] for name in found["pools"][pool]]
        assert each[pool, measure] == pytest.approx(sum(seeds) / 3, abs=2e-6)
        assert base[pool, measure] == base["0/adapter", measure]
    assert {c["test"] for c in found["comparisons"] if c["arm"] == pool} == {"t"}
    # The table shows the pool instead of its members.
    code, out, _ = run("evaluate", *folders, "other", *shared)
    assert code == 0
    assert pool in out
    assert "0/adapter" not in out.split("Quadrants [")[0]
    assert_error(run("evaluate", folders[0], folders[0], *shared), "given twice")


def test_failing_a_pipeline_on_the_verdict(run, world, tmp_path):
    assert run(*options(world, "--layers", "1", "--out", "adapter"))[0] == 0
    asked = ["evaluate", "adapter", "--questions", world.questions, "--device", "cpu", "--limit", 4, "--json"]
    code, out, _ = run(*asked)
    label = next(iter(json.loads(out)["verdicts"].values()))["label"]
    # A single step on random weights improves nothing.
    assert (code, label) == (0, "not improved")
    assert run(*asked, "--fail-on", "worse", "--out", "e.json")[0] == 0
    code, out, _ = run(*asked, "--fail-on", "not-improved", "--out", "f.json")
    assert code == 4
    assert json.loads((tmp_path / "f.json").read_text()) == json.loads(out)


def test_the_table_names_the_clamp(run, world, saes):
    asked = ["--model", world.model, "--questions", world.questions, "--device", "cpu", "--limit", 4, "--saes", saes]
    code, out, _ = run("evaluate", "--clamp", "1:3=2", *asked)
    assert code == 0
    assert "1:3=2 at the final token" in out
    assert "adapter" not in out
    code, out, _ = run("evaluate", "--clamp", "1:3=mean", *asked, "--json")
    assert code == 0
    assert json.loads(out)["arms"]["clamp 1:3"][0]["value"] > 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "nothing to compare with the base"),
        (["--clamp", "1-3"], "'1-3' is not LAYER:FEATURE"),
        (["--clamp", ""], "is not LAYER:FEATURE"),
        (["--clamp", "1:3,1:3"], "1:3 is named twice"),
        (["--clamp", "1:8"], "layer_1_width_16k_l0_small has features 0 to 7"),
        (["--clamp", "2:3"], "layer 2 has no SAE"),
        (["--clamp", "1:3", "--saes", "./absent"], "./absent"),
        (["--clamp", "1:3", "--sae-width", "262k"], "262k"),
        (["absent", "--clamp", "1:3"], "absent: no such folder, and not a hub id"),
    ],
)
def test_a_clamp_that_can_not_be(run, world, saes, tmp_path, more, message):
    asked = ["--model", world.model, "--questions", world.questions, "--device", "cpu", "--saes", saes]
    assert_error(run("evaluate", *asked, "--out", "e.json", *more), message)
    assert list(tmp_path.iterdir()) == []


def test_a_clamp_beyond_the_model(run, world, saes, tmp_path):
    shutil.copytree(saes / "layer_1_width_16k_l0_small", tmp_path / "saes" / "layer_7_width_16k_l0_small")
    (tmp_path / "saes" / "layer_7_width_16k_l0_small" / "config.json").unlink()
    asked = ["--model", world.model, "--questions", world.questions, "--device", "cpu", "--saes", "saes"]
    assert_error(run("evaluate", *asked, "--clamp", "7:3"), "7:3: model has layers 0 to 2 only")


def assert_error(result, message):
    code, _, err = result
    last = err.strip().splitlines()[-1]
    assert code == 2
    assert last.startswith("error: ")
    assert message in last
    assert "Traceback" not in err


def test_help_and_import_are_light():
    """Neither torch nor libraries built on it are loaded before there is work to do."""
    script = (
        "import sys, finetune.cli.app\n"
        "sys.argv = ['finetune', '--help']\n"
        "try:\n    finetune.cli.app.main()\n"
        "except SystemExit as stopped:\n    assert not stopped.code\n"
        "heavy = {'torch', 'transformers', 'peft', 'accelerate', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--layers-from" in done.stdout
    assert "evaluate" in done.stdout

"""`finetune verify` accepts an adapter with its own base and questions, and reports what was changed or is foreign."""

import json
import shutil
import sys

import pytest
import torch
from conftest import read_rows, write_rows
from finetune_world import make_world
from safetensors.torch import load_file, save_file
from test_processes import launch

from finetune.cli import app as cli
from finetune.evaluation.verify import without_rounding


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    torch.set_num_threads(1)
    return make_world(tmp_path_factory.mktemp("verify") / "world", patients=6)


def finetune(*arguments) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["finetune", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    return stopped.value.code or 0


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "adapter"
    options = ["--layers", "1-2", "--model", world.model, "--questions", world.questions, "--device", "cpu"]
    assert finetune(*options, "--epochs", 3, "--lr", 0.05, "--rank", 4, "--batch-size", 4, "--out", out) == 0
    return out


@pytest.fixture
def copied(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "renamed")


@pytest.fixture
def verified(world, capsys):
    """Verify an adapter; returns the exit code and the checks that fail, as name -> (claimed, found)."""

    def call(adapter, *more):
        asked = [] if "--questions" in more else ["--questions", world.questions]
        capsys.readouterr()
        code = finetune("verify", adapter, "--device", "cpu", "--json", *asked, *more)
        checks = json.loads(capsys.readouterr().out)
        return code, {check["what"]: (check["claimed"], check["found"]) for check in checks if not check["holds"]}

    return call


def test_an_unchanged_adapter_passes(verified, copied):
    assert verified(copied) == (0, {})
    # Adapters of early versions have no manifest.
    (copied / "manifest.json").unlink()
    assert verified(copied) == (0, {})


def test_a_changed_number_is_reported(verified, copied):
    (copied / "manifest.json").unlink()
    path = copied / "evaluation.json"
    content = json.loads(path.read_text())
    row = next(row for row in content["comparisons"] if (row["kind"], row["measure"]) == ("all", "accuracy"))
    row["after"]["value"] += 0.01
    path.write_text(json.dumps(content))
    code, wrong = verified(copied)
    assert code == 4
    assert list(wrong) == ["measures, all"]
    assert wrong["measures, all"][1].endswith("1 beyond the tolerance, the first all, accuracy.after.value")


def test_damaged_files_are_reported(verified, copied):
    path = copied / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    code, wrong = verified(copied)
    assert code == 4
    assert list(wrong) == ["files"]
    assert "adapter_model.safetensors: damaged" in wrong["files"][1]


def test_other_weights_are_reported(verified, copied):
    (copied / "manifest.json").unlink()
    path = copied / "adapter_model.safetensors"
    save_file({name: -3 * tensor for name, tensor in load_file(path).items()}, path, {"format": "pt"})
    code, wrong = verified(copied)
    assert code == 4
    assert "measures, all" in wrong


def test_other_questions_and_another_base_are_reported(verified, copied, world, tmp_path):
    rows = read_rows(world.questions)
    write_rows(tmp_path / "others.jsonl", [rows[0] | {"question": "Is it there?"}, *rows[1:]])
    images = ("--images", world.questions.parent)
    code, wrong = verified(copied, "--questions", tmp_path / "others.jsonl", *images)
    assert (code, [name for name in wrong if "digest" in name]) == (4, ["questions asked, digest"])
    base = shutil.copytree(world.model, tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    name = next(name for name in tensors if name.endswith("layers.0.mlp.up_proj.weight") and "language" in name)
    tensors[name] = tensors[name] * 1.5
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    code, wrong = verified(copied, "--model", base)
    assert code == 4
    assert "base, digest of weights" in wrong


def test_a_dispersion_that_rounding_decides_is_not_compared():
    """Questions with nearly equal margins: their spread, by which it is divided, is rounding."""

    def of(dispersion):
        sides = {side: {"value": dispersion, "low": None, "high": None} for side in ("before", "after", "difference")}
        return {"register": {"formal, margin_dispersion": sides, "formal, margin_difference": sides}}

    assert list(without_rounding(of(741.3), of(742.3))["register"]) == ["formal, margin_difference"]
    # A claim of which nothing is found, and one that rounding does not explain.
    for claimed, found in ((of(741.3), {}), (of(741.3), of(2.0)), (of(2.0), of(741.3)), (of(41.3), of(41.4))):
        assert without_rounding(claimed, found) == claimed


def test_a_folder_without_an_evaluation_is_refused(copied, capsys, world):
    (copied / "evaluation.json").unlink()
    (copied / "manifest.json").unlink()
    assert finetune("verify", copied, "--questions", world.questions, "--device", "cpu") == 2
    assert "no gatescope.json and evaluation.json" in capsys.readouterr().err


def test_two_processes_verify_together_and_one_reports(world, trained, tmp_path):
    done = launch(
        "-m", "finetune", "verify", trained, "--device", "cpu", "--json", "--questions", world.questions, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert all(check["holds"] for check in json.loads(done.stdout))


def test_the_record_says_how_it_was_trained_and_what_nobody_published(trained):
    record = json.loads((trained / "gatescope.json").read_text())
    recipe = record["recipe"]
    assert recipe["schedule"].startswith("cosine")
    assert recipe["warmup"].startswith("linear, over 0.03")
    assert (recipe["decay"][:4], recipe["clipping"]) == ("0.01", "gradient norm at most 1")
    assert recipe["loss"] == "1 x cross-entropy + 1 x divergence"
    assert recipe["modules"].split(", ")[0] == "q_proj"
    assert {"schedule", "warmup", "decay", "clipping", "divergence"} <= set(record["unpublished"]) <= set(recipe)

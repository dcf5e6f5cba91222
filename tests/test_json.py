"""What --json prints is what the file holds, and nothing else is on stdout."""

import json

import pytest
import torch
from conftest import read_rows, write_rows
from finetune_world import make_world
from test_ablate_statistics import profile_of
from test_finetune_cli import layers_json

DEVICE = ["--device", "cpu"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    torch.set_num_threads(1)
    return make_world(tmp_path_factory.mktemp("json") / "world", patients=4)


@pytest.fixture
def printed(called, monkeypatch, tmp_path):
    """Run a command with --json in an empty folder; gives what stdout holds, and what it says."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments, code=0):
        ended, out, err = called(*arguments, "--json")
        assert ended == code, err
        return out, json.loads(out)

    return call


def test_a_feature_study(printed, own_data, tmp_path):
    given = ["--questions", own_data / "questions.jsonl", "--split", "all", *DEVICE]
    text, content = printed("interp", "test-feature", "4:110", *given, "--out", "study")
    assert text == (tmp_path / "study" / "study.json").read_text()
    assert (content["layer"], content["feature"]) == (4, 110)


def test_a_transfer_check(printed, own_data, tmp_path):
    given = ["--questions", own_data / "questions.jsonl", "--limit", 3, "--layers", "4", *DEVICE]
    text, content = printed("interp", "transfer-check", *given, "--out", "check.json")
    assert text == (tmp_path / "check.json").read_text()
    assert {row["layer"] for row in content["layers"]} == {4}


def test_questions_imported_and_reworded(printed, own_data, tmp_path):
    source = own_data / "questions.jsonl"
    given = ["--format", "jsonl", "--images", own_data, "--out", "imported.jsonl"]
    text, content = printed("interp", "import-questions", source, *given)
    assert text == (tmp_path / "imported.jsonl.report.json").read_text()
    assert content["questions"] == 12
    write_rows(source, [row | {"paraphrases": []} for row in read_rows(source)])
    _, content = printed("interp", "paraphrase", source, "--out", "reworded.jsonl")
    assert (content["made"], content["given"], content["not_understood"]) == (12, 0, 0)
    made = [p for row in read_rows(tmp_path / "reworded.jsonl") for p in row["paraphrases"]]
    for tag in content["wordings"]:
        alike = [p for p in made if (p["phenomenon"], p["register"]) == (tag["phenomenon"], tag["register"])]
        assert len(alike) == tag["wordings"]
    assert sum(tag["wordings"] for tag in content["wordings"]) == len(made)


def test_a_folder_that_must_not_be_shared(printed, own_data, tmp_path):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "[1].csv").write_text("patient,answer\np0,yes\n")
    (tmp_path / "shared" / "clean.csv").write_text("layer\n4\n")
    _, content = printed("interp", "scrub", "shared", code=4)
    assert content["files"] == 2
    assert {found["file"] for found in content["found"]} == {"[1].csv"}


def test_a_training_and_what_was_asked_of_it(printed, world, tmp_path):
    given = ["--questions", world.questions, *DEVICE]
    train = ["finetune", "--model", world.model, *given, "--layers", "1", "--epochs", 1, "--out", "adapter"]
    text, content = printed(*train)
    assert text == (tmp_path / "adapter" / "evaluation.json").read_text()
    assert list(content["verdicts"]) == ["adapter"]
    # A pipeline that is started again gets the same.
    assert printed(*train, "--resume")[0] == text
    text, _ = printed("finetune", "evaluate", "adapter", *given, "--limit", 4, "--out", "evaluation.json")
    assert text == (tmp_path / "evaluation.json").read_text()
    shown = ["finetune", "push", "adapter", "me/adapter", "--base-model", "me/base"]
    _, content = printed(*shown)
    assert (content["repo"], content["private"], content["sent"]) == ("me/adapter", True, None)
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    assert content["files"]["adapter_model.safetensors"] == weights.stat().st_size


def test_an_ablation(printed, world, tmp_path):
    profile = [entry.model_dump() for entry in profile_of([0.6, 0.8, 0.7])]
    (tmp_path / "layers.json").write_text(layers_json(profile=profile))
    given = ["--model", world.model, "--questions", world.questions, "--epochs", 1, *DEVICE]
    text, content = printed(
        *["finetune", "ablate", *given, "--layers-from", "layers.json"],
        *["--seeds", "0", "--arms", "window", "--rank", 2, "--out", "ablation"],
    )
    assert text == (tmp_path / "ablation" / "ablation.json").read_text()
    assert content["chosen"] == [1, 2]

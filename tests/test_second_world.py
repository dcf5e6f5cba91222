"""Both commands on a user's own data: another seed, another window, PNG files and JSON Lines on disk."""

import json
import shlex
import sys

import pytest
from planted import plant_world

from finetune.cli import app as finetune_cli
from finetune.lora.seen_texts import shown
from interp.cli import app as interp_cli
from interp.paths import WORLD
from interp.profile.ranges import overlap
from interp.questions.files import load_questions
from interp.schemas.layers import read_layers

WINDOW = [6, 7]


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    folder = plant_world(tmp_path_factory.mktemp("second"), WORLD, WINDOW, strength=0.7, seed=77)
    # As a user may keep them: questions and images in different folders, and no splits.
    rows = [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]
    for row in rows:
        row["image"] = row["image"].removeprefix("images/")
        del row["split"]
    (folder / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def call(module, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        module.main()
    return stopped.value.code or 0


def shared(folder):
    return ["--model", folder / "planted", "--questions", folder / "mine.jsonl", "--images", folder / "images"]


def test_both_commands(second, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call(interp_cli, monkeypatch, "find-features", *shared(second), "--saes", WORLD / "saes") == 0
    found = read_layers("artifacts/layers.json")
    assert found.model.id == "planted"
    assert overlap(found.layers, WINDOW) >= 0.5
    assert found.peak in WINDOW
    following = shlex.join(["finetune", "--layers-from", "artifacts/layers.json", *map(str, shared(second))])
    assert f"next: {following}\n" in capsys.readouterr().out

    quickly = ["--limit", 200, "--epochs", 1, "--batch-size", 4, "--lr", 0.002]
    assert call(finetune_cli, monkeypatch, "--layers-from", "artifacts/layers.json", *shared(second), *quickly) == 0
    record = json.loads((tmp_path / "artifacts/adapter/gatescope.json").read_text())
    assert record["layers"] == found.layers
    taught = load_questions(second / "mine.jsonl", second / "images", "train")[:200]
    assert record["patients"] == len({q.patient for q in taught})
    assert shown([taught[0].question], record["text_hashes"]).all()
    evaluation = json.loads((tmp_path / "artifacts/adapter/evaluation.json").read_text())
    flips = next(c for c in evaluation["comparisons"] if (c["subset"], c["measure"]) == ("all", "question_flip_rate"))
    assert flips["difference"]["high"] < 0
    assert flips["p"] < 0.001


def test_layers_json_of_another_model_is_refused(second, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ["--saes", WORLD / "saes", "--layers", "6", "--limit", 150, "--split", "all"]
    call(interp_cli, monkeypatch, "find-features", *shared(second), *options)
    path = tmp_path / "artifacts/layers.json"
    content = json.loads(path.read_text())
    content |= {"verdict": "gate found", "layers": [6], "peak": 6}
    content["model"]["id"] = "medgemma-4b-it"
    # Outside the run's folder, whose manifest would show that the file was changed.
    path = tmp_path / "layers.json"
    path.write_text(json.dumps(content))
    capsys.readouterr()
    assert call(finetune_cli, monkeypatch, "--layers-from", path, *shared(second)) == 2
    error = capsys.readouterr().err
    assert "made on medgemma-4b-it" in error
    assert "the model here is planted" in error
    assert not (tmp_path / "artifacts/adapter").exists()

"""A run passes against its own model and questions; other ones and changed numbers fail."""

import json
import shutil
import sys

import numpy as np
import pandas as pd
import pytest

from interp.cli import app as cli
from interp.model.load import load_vlm
from interp.paths import WORLD
from interp.questions.files import load_questions
from interp.runtime.errors import InputError
from interp.saes.locate import locate_saes
from interp.schemas.layers import SCHEMA_VERSION, read_layers
from interp.search.run_folder import find_into
from interp.search.settings import FindSettings
from interp.search.task import Search
from interp.search.verify import SavedRun, matched, verify_run
from interp.storage.checks import near, numbers

SAES = locate_saes(WORLD / "saes", layers=[4, 5])


@pytest.fixture(scope="module")
def questions():
    return load_questions(WORLD / "questions.jsonl", split="train")[:110]


@pytest.fixture(scope="module")
def planted():
    return load_vlm(WORLD / "planted", "cpu", "float32")


@pytest.fixture(scope="module")
def saved(planted, questions, tmp_path_factory):
    out = tmp_path_factory.mktemp("verify") / "run"
    search = Search(planted, SAES, questions, [4, 5], FindSettings(min_flips=1), "train", 3000, None)
    assert find_into(out, lambda: search) is not None
    return out


@pytest.fixture
def copied(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def wrong(run, vlm, questions, **more):
    """The checks that do not hold: name -> what was found."""
    checks = verify_run(SavedRun(run, read_layers(run / "layers.json"), vlm, SAES, questions), **more)
    return {check.what: check.found for check in checks if not check.holds}


def test_a_run_is_what_it_says(saved, planted, questions):
    checks = verify_run(SavedRun(saved, read_layers(saved / "layers.json"), planted, SAES, questions), full=True)
    assert [check for check in checks if not check.holds] == []
    told = {check.what: check for check in checks}
    assert told["files"].claimed == "6 checksums"
    sampled = told["pairs of 50 questions drawn"]
    rows, chance = int(sampled.claimed.split()[0]), int(sampled.found.split("(")[1].split()[0])
    assert rows == 200
    assert chance < rows / 2
    # On the machine that made the run, every number is reproduced.
    assert told["layers.json, profile"].found.endswith("largest difference 0")


def test_another_model_fails_by_its_weights_and_by_its_pairs(saved, questions):
    base = load_vlm(WORLD / "base", "cpu", "float32")
    assert sorted(wrong(saved, base, questions)) == ["model, digest of weights", "pairs of 50 questions drawn"]


def test_other_questions_fail(saved, planted):
    others = load_questions(WORLD / "questions.jsonl", split="test")[:110]
    assert sorted(wrong(saved, planted, others)) == ["pairs of 50 questions drawn", "questions, digest"]


def test_changed_numbers_fail_even_with_new_checksums(copied, planted, questions):
    path = copied / "layers.json"
    content = json.loads(path.read_text())
    content["profile"][0]["recovery"]["value"] += 0.2
    content["data"]["flips"] += 3
    path.write_text(json.dumps(content))
    assert "layers.json: damaged, changed" in wrong(copied, planted, questions)["files"]
    (copied / "manifest.json").unlink()
    found = wrong(copied, planted, questions, full=True)
    assert sorted(found) == ["flips, by the table of pairs", "layers.json, data", "layers.json, profile"]
    assert found["layers.json, profile"].endswith("1 beyond the tolerance, the first [0].recovery.value")


def test_changed_claims_of_the_new_sweeps_fail(copied, planted, questions):
    path = copied / "layers.json"
    content = json.loads(path.read_text())
    assert content["ranges"][0]["rule"] == "answer"
    content["ranges"][0]["share"]["value"] += 0.2
    content["profile"][1]["answer"]["value"] += 0.2
    content["formality"]["recovery"]["value"] -= 0.2
    content["commit_layer"] = None if content["commit_layer"] else 4
    path.write_text(json.dumps(content))
    (copied / "manifest.json").unlink()
    found = wrong(copied, planted, questions, full=True)
    assert sorted(found) == [f"layers.json, {part}" for part in ("commit_layer", "formality", "profile", "ranges")]
    assert found["layers.json, ranges"].endswith("1 beyond the tolerance, the first answer.share.value")


def test_of_an_older_run_only_what_it_says_is_compared(copied, planted, questions):
    """Version 2 had neither the rule answer nor the test of a range."""
    path = copied / "layers.json"
    content = json.loads(path.read_text()) | {"schema_version": 2}
    content["settings"]["rule"] = content["rule"] = "write"
    del content["formality"], content["ranges"][0]
    for entry in content["ranges"]:
        for name in ("share", "formed", "arrived", "restored", "random_restored", "broken", "random_broken"):
            del entry[name]
    for entry in content["profile"]:
        for name in ("answer", "random_answer", "answer_growth", "growth_p", "register_patch", "random_register"):
            del entry[name]
    path.write_text(json.dumps(content))
    (copied / "manifest.json").unlink()
    run = SavedRun(copied, read_layers(path), planted, SAES, questions)
    checks = {check.what: check for check in verify_run(run, full=True)}
    assert f"version {SCHEMA_VERSION} defines them otherwise" in checks["verdict, layers, ranges"].found
    assert not {"verdict", "layers", "layers.json, ranges"} & set(checks)
    assert all(check.holds for check in checks.values())
    content["profile"][1]["recovery"]["value"] += 0.2
    path.write_text(json.dumps(content))
    assert "layers.json, profile" in wrong(copied, planted, questions, full=True)


def test_a_made_up_table_of_pairs_fails(copied, planted, questions):
    table = pd.read_csv(copied / "delta_margin.csv")
    table["shift"] = table["shift"].sample(frac=1, random_state=0).to_numpy()
    table.to_csv(copied / "delta_margin.csv", index=False)
    assert list(wrong(copied, planted, questions)) == ["files", "pairs of 50 questions drawn"]
    (copied / "manifest.json").unlink()
    assert list(wrong(copied, planted, questions)) == ["pairs of 50 questions drawn"]


def test_every_row_matches_one_pair():
    one, two = np.array([1.0, 1.0, 2.0]), np.array([1.0, 2.0, 9.0])
    assert matched(one, one, two, two, 0.1, 0.1) == 2
    assert matched(one, one, one, one, 0.1, 0.1) == 3


def test_numbers_of_nested_content():
    claimed = {"a": [1.0, None], "b": {"c": 200, "d": True, "e": "x"}}
    assert [name for name, _ in numbers(claimed)] == ["a[0]", "a[1]", "b.c"]
    assert near("", claimed, {"a": [1.0005, None], "b": {"c": 200.1}}, 1e-3).holds
    for other in ({"a": [1.01, None], "b": {"c": 200}}, {"a": [1.0, 0], "b": {"c": 200}}, {"a": [1.0, None]}):
        assert not near("", claimed, other, 1e-3).holds


def test_settings_of_another_version_cannot_be_repeated(copied, planted, questions):
    artifact = read_layers(copied / "layers.json")
    for settings in ({}, artifact.settings | {"depth": 3}):
        changed = artifact.model_copy(update={"settings": settings})
        with pytest.raises(InputError, match="Leave --full out"):
            verify_run(SavedRun(copied, changed, planted, SAES, questions), full=True)


def test_the_exit_code_says_whether_all_checks_hold(copied, monkeypatch, capsys):
    def verify(*arguments):
        monkeypatch.setattr(sys, "argv", ["interp", "verify", str(copied), "--device", "cpu", "--json", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        checks = json.loads(capsys.readouterr().out)
        return stopped.value.code or 0, [check["what"] for check in checks if not check["holds"]]

    assert verify("--limit", "110", "--sample", "5") == (0, [])
    assert verify("--limit", "109", "--sample", "5") == (4, ["questions, digest"])


def test_other_saes_fail_by_layer(copied, planted, questions):
    content = json.loads((copied / "layers.json").read_text())
    assert [entry["layer"] for entry in content["sae_sources"]] == [4, 5]
    assert all(entry["repository"] is None and len(entry["digest"]) == 32 for entry in content["sae_sources"])
    content["sae_sources"][1] |= {"digest": "0" * 32}
    content["sae_sources"][0] |= {"repository": "me/saes", "revision": "abc", "release": "mine"}
    (copied / "layers.json").write_text(json.dumps(content))
    (copied / "manifest.json").unlink()
    checks = verify_run(SavedRun(copied, read_layers(copied / "layers.json"), planted, SAES, questions))
    told = {check.what: check for check in checks}
    assert (told["SAEs, digest"].found, told["SAEs, digest"].holds) == ("others for layers 5", False)
    assert told["SAEs, revision"].claimed == "me/saes@abc (mine)"
    assert told["SAEs, revision"].found == "a local folder"
    assert told["SAEs, revision"].holds

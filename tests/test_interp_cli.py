"""The `interp` command: exit codes, and one clear error for each mistake, without incomplete files."""

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from conftest import read_rows, write_rows
from safetensors.torch import load_file, save_file

import interp
from interp.cli import app as cli
from interp.cli import guard as entry
from interp.cli.renamed import current_arguments
from interp.paths import WORLD
from interp.questions.files import load_questions
from interp.schemas.layers import read_layers


@pytest.fixture
def run(called, monkeypatch, tmp_path):
    """Run `interp` in an empty folder; gives (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    return partial(called, "interp")


def test_an_interruption_before_the_command_begins_leaves_no_traceback(run, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    for place, name in ((cli, "app"), (entry.detail, "silence_libraries")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, interrupted)
            assert run("find-features") == (130, "", "")


@pytest.fixture
def refused(run, tmp_path):
    """Run `interp find-features` on own data; expect exit code 2, one paragraph and no output; gives the error."""

    def call(*arguments):
        out = tmp_path / "fresh"
        code, stdout, stderr = run("find-features", "--out", out, *arguments)
        assert code == 2, stdout + stderr
        assert stderr.startswith("error: ")
        assert stderr.strip().count("\n") == 0
        assert "Traceback" not in stderr
        assert not out.exists()
        return stderr

    return call


def data(folder):
    return ["--questions", folder / "questions.jsonl", "--split", "all"]


def with_row(folder, row, **changes):
    rows = read_rows(folder / "questions.jsonl")
    rows[row] |= changes
    write_rows(folder / "questions.jsonl", rows)


def test_a_run_on_own_data_writes_a_verdict(run, own_data, tmp_path):
    code, stdout, stderr = run("find-features", *data(own_data), "--layers", "3-4", "--out", tmp_path / "out")
    assert code == 3, stderr
    assert "too few flips" in stdout
    found = read_layers(tmp_path / "out" / "layers.json")
    assert (found.verdict, found.layers, [p.layer for p in found.profile]) == ("too few flips", [], [3, 4])
    assert found.data.questions == 12


def test_the_prompt_style_is_recorded(run, own_data, tmp_path):
    code, stdout, _ = run("find-features", "--normalize", "--system", "Look.", "--out", tmp_path / "r", *data(own_data))
    assert code == 3, stdout
    prompt = read_layers(tmp_path / "r" / "layers.json").prompt
    assert (prompt.normalize, prompt.system, prompt.image_first) == (True, "Look.", True)


def test_paraphrases_are_made_for_questions_that_have_none(run, own_data, tmp_path):
    given = read_rows(own_data / "questions.jsonl")
    write_rows(own_data / "questions.jsonl", [row | {"paraphrases": []} if i else row for i, row in enumerate(given)])
    out = tmp_path / "reworded.jsonl"
    arguments = ["paraphrase", own_data / "questions.jsonl", "--out", out, "--per-question", 3]
    code, stdout, _ = run(*arguments)
    assert code == 0
    assert "11 questions paraphrased by rule, 1 already had paraphrases, 0 were not understood" in " ".join(
        stdout.split()
    )
    rows = read_rows(out)
    assert [row["image"] for row in rows] == [row["image"] for row in given]
    assert rows[0]["paraphrases"] == given[0]["paraphrases"]
    assert all(len(row["paraphrases"]) == 3 for row in rows[1:])
    assert len(load_questions(out, own_data)) == 12
    code, _, stderr = run(*arguments)
    assert code == 2
    assert "nothing is overwritten" in stderr


def test_missing_image(refused, own_data):
    with_row(own_data, 4, image="images/none.png")
    assert "row 5: its image is not in /" in refused(*data(own_data))


def test_unreadable_image(refused, own_data):
    path = own_data / "images" / "2.png"
    path.write_bytes(path.read_bytes()[:200])
    said = refused(*data(own_data))
    # A path may identify the patient, so this command names the row.
    assert "not a readable image" in said
    assert "interp import-questions QUESTIONS --format jsonl" in said


def test_empty_paraphrase(refused, own_data):
    with_row(own_data, 2, paraphrases=[{"text": "  "}])
    error = refused(*data(own_data))
    assert "row 3" in error
    assert "paraphrases.0.text" in error


def test_duplicate_id(refused, own_data):
    with_row(own_data, 7, id="0-0")
    assert "row 8: its id is already used in row 1" in refused(*data(own_data))


def test_answer_outside_its_set(refused, own_data):
    with_row(own_data, 1, answer="perhaps")
    assert "row 2: its answer is not among those of type 'presence'" in refused(*data(own_data))


def test_sae_of_another_width(refused, own_data, tmp_path):
    saes = tmp_path / "saes"
    shutil.copytree(WORLD / "saes", saes)
    path = next(saes.glob("*/layer_4_*")) / "params.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"w_enc": tensors["w_enc"][:64].contiguous()}, path)
    error = refused(*data(own_data), "--saes", saes)
    assert "made for a residual stream of width 64, but the model's width is 128" in error


@pytest.mark.parametrize(
    ("layers", "expected"),
    [("8-12", "the model has layers 0 to 9"), ("5-3", "expected 'all', a range"), ("x", "expected 'all', a range")],
)
def test_layers_out_of_range(refused, own_data, layers, expected):
    assert expected in refused(*data(own_data), "--layers", layers)


def test_layers_without_an_sae(refused, own_data, tmp_path):
    saes = tmp_path / "saes"
    shutil.copytree(next((WORLD / "saes").glob("*/layer_4_*")), saes / "layer_4_width_512_l0_small")
    assert "no SAE for layer 5; found [4]" in refused(*data(own_data), "--saes", saes, "--layers", "4,5")


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--model", "./nowhere", "no such folder, and not a hub id"),
        ("--saes", "nowhere", "no such folder, and not the preset gemma-scope-2"),
        ("--questions", "nowhere.jsonl", "no such file"),
        ("--images", "nowhere", "no such folder"),
        ("--device", "cuda:7", "not usable here"),
    ],
)
def test_what_is_not_there(refused, option, value, expected):
    assert expected in refused(option, value)


@pytest.mark.parametrize("given", ["runs/frist", "run/first", "./runs/first-"])
@pytest.mark.parametrize(
    "words",
    [
        ("interp", "verify"),
        ("interp", "export"),
        ("interp", "report"),
        ("interp", "figures"),
        ("interp", "scrub"),
        ("interp", "find-features", "--images"),
        ("finetune", "verify"),
        ("finetune", "push", "me/repository"),
        ("finetune", "evaluate"),
        ("finetune", "--layers-from"),
    ],
)
def test_a_mistyped_folder_is_named_beside_the_one_that_was_meant(called, tmp_path, monkeypatch, words, given):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "first").mkdir(parents=True)
    command, *rest = words
    asked = [rest[0], given, *rest[1:]] if rest[0] == "push" else [*rest, given]
    code, _, err = called(command, *asked)
    assert code == 2
    assert f"error: {Path(given)}" in err.replace("./", "")
    assert ": no such f" in err
    assert " Did you mean runs/first?" in err


def test_an_output_folder_that_holds_a_run(run, own_data, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "layers.json").write_text("{}")
    code, _, stderr = run("find-features", *data(own_data), "--out", out)
    assert code == 2
    assert "already holds a run (layers.json), and nothing is overwritten" in stderr
    assert (out / "layers.json").read_text() == "{}"


def test_an_interrupted_run_leaves_nothing(run, own_data, tmp_path, monkeypatch):
    import interp.search.run_folder as module

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "save_figures", stop)
    code, _, stderr = run("find-features", *data(own_data), "--layers", "4", "--out", tmp_path / "out")
    assert code == 130
    assert "Traceback" not in stderr
    assert not (tmp_path / "out" / "layers.json").exists()


def test_import_and_help_are_light():
    names = "('torch', 'pandas', 'transformers')"
    heavy = f"import sys, interp.cli.app, finetune.cli.app; print([m for m in {names} if m in sys.modules])"
    environment = os.environ | {"COLUMNS": "80"}
    assert subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True).stdout.strip() == "[]"
    shown = subprocess.run(
        [sys.executable, "-m", "interp", "find-features", "--help"], capture_output=True, text=True, env=environment
    )
    assert shown.returncode == 0
    assert "--questions" in shown.stdout
    assert json.dumps(str(WORLD)) not in shown.stdout


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="pins threads as Linux does")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="OpenMP knows that a single core is single")
def test_threads_that_must_share_a_core_do_not_wait_busily():
    """Two that spun on one core took a thousand times as long."""
    code = """
import os, time
from interp.cli.guard import command
with command():
    import torch
    a, took = torch.randn(300, 300), []
    torch.set_num_threads(2)
    a.relu()
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), {min(os.sched_getaffinity(0))})
    for threads in (1, 2, 1, 2):
        torch.set_num_threads(threads)
        started = time.process_time()
        for _ in range(100):
            a.add(1).relu()
        took.append(time.process_time() - started)
    print(min(took[1::2]) / min(took[::2]))
"""
    ours = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 30


def test_an_interruption_while_the_model_is_loaded_is_no_fault_of_the_model(run, tmp_path, monkeypatch):
    from transformers import AutoModelForImageTextToText

    def interrupted(*_, **__):
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("trying to pop from empty mode stack")

    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", interrupted)
    code, _, stderr = run("find-features", "--out", tmp_path / "out", "--device", "cpu")
    assert code == 130
    assert "could not be loaded" not in stderr


def test_old_names_of_options_and_values_are_accepted_with_a_warning(capsys):
    given = ["find-features", "--width=65k", "--max-width", "3", "--batch-size", "8", "--rule", "level"]
    now = ["find-features", "--sae-width=65k", "--max-layers", "3", "--batch-tokens", "8", "--rule", "near-peak"]
    assert current_arguments("interp", given) == now
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 4
    assert warnings[0] == "--width is now called --sae-width; release 0.3 removes the old name."
    assert current_arguments("interp", [*now, "--out", "level", "--rule=rise"])[-3:] == [
        "--out",
        "level",
        "--rule=growth",
    ]
    # In training, a batch is still one of questions.
    assert current_arguments("finetune", ["--batch-size", "8"]) == ["--batch-size", "8"]


@pytest.mark.parametrize("program", ["interp", "finetune"])
def test_the_version_names_the_libraries_that_matter(called, program):
    code, out, _ = called(program, "--version")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["gatescope", "torch", "transformers", "peft", "sae-lens"]
    assert out.splitlines()[0] == f"gatescope {interp.__version__}"


def test_an_unknown_number_format_is_refused_before_anything_is_loaded(run, tmp_path):
    code, out, err = run("find-features", "--out", tmp_path / "out", "--dtype", "int8")
    assert (code, out) == (2, "")
    assert "'int8' is not one of 'auto', 'float32', 'bfloat16', 'float16'" in " ".join(err.split())
    assert not (tmp_path / "out").exists()

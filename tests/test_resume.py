"""Killed runs can be resumed to the same result, and checkpoints and files of other runs are refused by name."""

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from conftest import read_rows, write_rows
from finetune_world import make_world
from test_finetune_cli import assert_error, layers_json

from finetune.cli import app as cli
from finetune.lora.modules import add_lora
from finetune.lora.settings import TrainSettings
from finetune.training import loop as training
from finetune.training.batches import training_steps
from finetune.training.checkpoint import TrainingState, read_state, write_state
from finetune.training.forward import FirstTokenLogits
from finetune.training.loop import accelerator_for, train
from interp.model.load import load_vlm
from interp.questions.files import load_questions
from interp.runtime import progress
from interp.runtime.errors import InputError
from interp.storage.checkpoint import Checkpoint
from interp.storage.manifest import write_manifest

SETTINGS = TrainSettings(rank=2, alpha=4, dropout=0.3, lr=1e-2, batch_size=4)
INPUTS = {"lr": 0.01, "layers": [1, 2], "training_questions": "ab", "prompt": {"system": None}}
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    torch.set_num_threads(1)
    return make_world(tmp_path_factory.mktemp("resume") / "world", patients=4)


@pytest.fixture(scope="module")
def steps(world):
    return training_steps(load_questions(world.questions, split="train"), 2, 4, 0)


def trained(world, steps, saved=None, keep=None):
    """Weights and history of a training in a fresh model."""
    vlm = load_vlm(world.model, "cpu", "float32")
    adapted = add_lora(vlm, [1, 2], SETTINGS.rank, SETTINGS.alpha, SETTINGS.dropout)
    history = train(vlm, adapted, steps, SETTINGS, accelerator_for("cpu"), saved, keep)
    return {name: p.detach().clone() for name, p in adapted.named_parameters() if p.requires_grad}, history


def copied(state):
    parts = [{k: v.clone() for k, v in part.items()} if isinstance(part, dict) else part.clone() for part in state]
    return TrainingState(*parts)


@pytest.fixture(scope="module")
def states(world, steps):
    """The state after every step of an uninterrupted training, and its result."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
        result = trained(world, steps, keep=lambda state: found.append(copied(state)))
    assert [len(state.history) for state in found] == [*range(1, len(steps) + 1)]
    return found, result


# Training.


def test_a_resumed_training_ends_with_the_same_bits(world, steps, states, tmp_path):
    found, (weights, history) = states
    assert len(steps) == 6
    for done in (1, 4, 6):
        write_state(Checkpoint(tmp_path, INPUTS), found[done - 1], 12.5)
        saved, seconds = read_state(Checkpoint(tmp_path, INPUTS))
        assert seconds == 12.5
        last = []
        again, told = trained(world, steps, saved, lambda state, last=last: last.append(copied(state)))
        assert told == history
        assert all(torch.equal(again[name], weights[name]) for name in weights)
        for state in last:
            assert all(torch.equal(state.moments[name], found[-1].moments[name]) for name in state.moments)
            assert torch.equal(state.random, found[-1].random)
    # Dropout matters: with another random state the result differs.
    other = copied(found[0])._replace(random=found[3].random)
    again, _ = trained(world, steps, other)
    assert not all(torch.equal(again[name], weights[name]) for name in weights)


def test_the_schedule_of_checkpoints_changes_nothing(world, steps, states):
    """Only the last checkpoint is due here."""
    kept = []
    weights, history = trained(world, steps, keep=lambda state: kept.append(len(state.history)))
    assert kept == [len(steps)]
    assert history == states[1][1]
    assert all(torch.equal(weights[name], states[1][0][name]) for name in weights)


def test_slow_checkpoints_are_written_less_often(world, steps, monkeypatch):
    """Each step advances the clock by 30 seconds, and each late checkpoint by 9."""
    clock = [0.0]
    monkeypatch.setattr(training.time, "monotonic", lambda: clock[0])
    forward, kept = FirstTokenLogits.forward, []

    def step(self, parts):
        clock[0] += 30
        return forward(self, parts)

    def keep(state):
        clock[0] += 9 if len(state.history) > 2 else 0
        kept.append(len(state.history))

    monkeypatch.setattr(FirstTokenLogits, "forward", step)
    # A minute has passed after the second step, and again after the fourth; the next pause is three minutes.
    more = [*steps, *steps]
    trained(world, more, keep=keep)
    assert kept == [2, 4, 10, 12]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.02}, "was made with lr 0.01, but now it is 0.02"),
        ({"layers": [1]}, "was made with layers [1, 2], but now it is [1]"),
        ({"training_questions": "cd"}, "was made with training questions 'ab'"),
        ({"prompt": {"system": "Be brief."}}, "was made with prompt"),
        ({"modules": "mlp"}, "was made with modules None, but now it is 'mlp'"),
    ],
)
def test_a_checkpoint_with_other_inputs_is_refused_by_name(states, tmp_path, changes, message):
    write_state(Checkpoint(tmp_path, INPUTS), states[0][0], 0.0)
    with pytest.raises(InputError) as refused:
        read_state(Checkpoint(tmp_path, INPUTS | changes))
    assert message in str(refused.value)
    assert f"remove {tmp_path} to start over" in str(refused.value)


def test_a_damaged_checkpoint_is_refused(states, tmp_path):
    write_state(Checkpoint(tmp_path, INPUTS), states[0][0], 0.0)
    path = tmp_path / "training.safetensors"
    whole = path.read_bytes()
    for spoiled in (whole[:-7], whole[:-1] + bytes([whole[-1] ^ 1]), whole[:40], b""):
        path.write_bytes(spoiled)
        with pytest.raises(InputError, match=r"training.safetensors: damaged .* Remove .* to start over"):
            read_state(Checkpoint(tmp_path, INPUTS))
    path.unlink()
    assert read_state(Checkpoint(tmp_path, INPUTS)) is None


def test_other_versions_are_reported_once(states, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("interp.storage.checkpoint.software", lambda: {"torch": "1.0"})
    write_state(Checkpoint(tmp_path, INPUTS), states[0][0], 0.0)
    monkeypatch.undo()
    for _ in range(2):
        assert read_state(Checkpoint(tmp_path, INPUTS)) is not None
    assert capsys.readouterr().err.count(f"started with torch 1.0 (now {version('torch')})") == 1


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_numbers_that_are_not_finite_stop_before_the_update(world, steps, monkeypatch, what):
    """No checkpoint contains anything of that step."""
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    vlm = load_vlm(world.model, "cpu", "float32")
    adapted = add_lora(vlm, [1, 2], SETTINGS.rank, SETTINGS.alpha, SETTINGS.dropout)
    forward, calls, kept = FirstTokenLogits.forward, [], []

    def spoiled(self, parts):
        calls.append(parts)
        logits = forward(self, parts)
        if len(calls) == 3 and what == "gradient":
            logits.register_hook(lambda gradient: gradient * torch.inf)
        return logits * (torch.nan if len(calls) == 3 and what == "loss" else 1)

    monkeypatch.setattr(FirstTokenLogits, "forward", spoiled)
    with pytest.raises(InputError, match=f"The {what} of training step 3 is not finite, on a batch of 4 questions"):
        train(vlm, adapted, steps, SETTINGS, accelerator_for("cpu"), keep=lambda state: kept.append(copied(state)))
    assert [len(state.history) for state in kept] == [1, 2]
    named = dict(adapted.named_parameters())
    assert all(torch.equal(named[name], value) for name, value in kept[-1].weights.items())


def test_smaller_passes_are_reported_and_remembered(world, steps, monkeypatch, capsys):
    forward, last = FirstTokenLogits.forward, []

    def limited(self, parts):
        if sum(len(batch.prompts) for batch, _ in parts) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(self, parts)

    monkeypatch.setattr(FirstTokenLogits, "forward", limited)
    trained(world, steps, keep=last.append)
    said = capsys.readouterr().err.splitlines()
    assert said == ["Out of GPU memory at 4 questions per pass: continuing with 2. The loss stays the same."]
    assert last[-1].sizes.tolist() == [2]
    # A resumed training does not try the size that did not fit.
    begun = last[-1]._replace(history=last[-1].history[:-1])
    trained(world, steps, begun)
    assert capsys.readouterr().err == ""


LAUNCHED = """
import sys
from pathlib import Path
import torch
from finetune.training import loop as training
from finetune.training.checkpoint import read_state, write_state
from finetune.lora.modules import add_lora
from finetune.training.batches import training_steps
from finetune.lora.settings import TrainSettings
from interp.questions.files import load_questions
from interp.model.load import load_vlm
from interp.storage.checkpoint import Checkpoint

model, questions, work = sys.argv[1:]
training.CHECKPOINT_SECONDS = 0.0
accelerator = training.accelerator_for("cpu")
settings = TrainSettings(rank=2, alpha=4, dropout=0.3, lr=1e-2, batch_size=4)
steps = training_steps(load_questions(questions, split="train"), 2, 4, 0)
def trained(saved, keep):
    vlm = load_vlm(model, "cpu", "float32")
    adapted = add_lora(vlm, [1, 2], 2, 4, 0.3)
    history = training.train(vlm, adapted, steps, settings, accelerator, saved, keep)
    return history, [p.detach().clone() for p in adapted.parameters() if p.requires_grad]
def keep(state):
    assert accelerator.is_main_process
    assert len(state.random) == 2 and not torch.equal(state.random[0], state.random[1])
    if len(state.history) == 3:
        write_state(Checkpoint(Path(work), {}), state, 0.0)
history, weights = trained(None, keep)
accelerator.wait_for_everyone()
again, others = trained(read_state(Checkpoint(Path(work), {}))[0], None)
assert again == history, (again, history)
assert all(torch.equal(a, b) for a, b in zip(weights, others, strict=True))
# In one call, because both processes write to the same pipe.
sys.stdout.write(f"same {accelerator.process_index}\\n")
accelerator.wait_for_everyone()
accelerator.end_training()
"""


def test_every_process_keeps_its_own_random_numbers(world, tmp_path):
    script = tmp_path / "launched.py"
    script.write_text(LAUNCHED)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    command += [str(world.model), str(world.questions), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(line for line in done.stdout.splitlines() if line.startswith("same")) == ["same 0", "same 1"]


# The command.


@pytest.fixture
def run(called, monkeypatch, tmp_path):
    """Run `finetune` in an empty folder; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    return partial(called, "finetune")


def options(world, *more):
    shared = ["--layers", "1-2", "--model", world.model, "--questions", world.questions, "--device", "cpu"]
    return [*shared, "--limit", 6, "--batch-size", 2, "--epochs", 1, "--out", "adapter", *more]


@pytest.fixture(scope="module")
def adapter(world, tmp_path_factory):
    """A finished adapter that no test changes."""
    folder = tmp_path_factory.mktemp("adapter")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["finetune", *map(str, options(world))])
        with pytest.raises(SystemExit):
            cli.main()
    return folder / "adapter"


def test_an_interrupted_command_resumes_and_others_are_refused(run, world, adapter, tmp_path, monkeypatch):
    forward, calls = FirstTokenLogits.forward, []

    def stopping(self, parts):
        calls.append(parts)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return forward(self, parts)

    with monkeypatch.context() as patch:
        patch.setattr(FirstTokenLogits, "forward", stopping)
        patch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
        code, _, err = run(*options(world))
    assert code == 130
    assert "adapter.partial keeps the work done so far" in err
    assert not progress._open, "the next command shows its bars"
    work = tmp_path / "adapter.partial"
    assert [path.name for path in work.iterdir()] == ["training.safetensors"]
    before = (work / "training.safetensors").read_bytes()
    assert_error(run(*options(world)), "Add --resume to continue it, or remove that folder to start over")
    for more, message in (
        (["--lr", 0.1], "was made with lr 0.0002, but now it is 0.1"),
        (["--layers", "1"], "was made with layers [1, 2], but now it is [1]"),
        (["--limit", 5], "was made with training questions"),
        (["--answer-instruction", "Answer yes or no."], "was made with prompt"),
    ):
        assert_error_anywhere(run(*options(world, *more, "--resume")), message)
    assert (work / "training.safetensors").read_bytes() == before
    # As if another version had kept something under another name.
    (work / "optimizer.safetensors").write_bytes(before)
    code, _, err = run(*options(world, "--resume"))
    unused, resuming = err.splitlines()
    assert "adapter.partial: this run of gatescope" in unused
    assert "kept there as optimizer, and computes it again" in unused
    assert (code, resuming) == (0, "Resuming after step 2 of 3.")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
    for name in ("adapter_model.safetensors", "adapter_config.json", "history.csv"):
        assert (tmp_path / "adapter" / name).read_bytes() == (adapter / name).read_bytes(), name
    told = [json.loads((folder / "evaluation.json").read_text()) for folder in (tmp_path / "adapter", adapter)]
    commands = [content.pop("provenance")["command"] for content in told]
    assert told[0] == told[1]
    assert commands[0].replace(" --resume", "") == commands[1]
    assert "--layers 1-2 --out … --model … --device cpu --questions …" in commands[1]

    # Nothing is left to do, and another training is refused.
    whole = {path: path.stat().st_mtime_ns for path in (tmp_path / "adapter").iterdir()}
    work.mkdir()
    (work / "training.safetensors").write_bytes(before)
    code, _, err = run(*options(world, "--resume"))
    assert (code, err) == (0, "adapter: already complete, so nothing is left to do.\n")
    assert not work.exists()
    assert_error(run(*options(world, "--resume", "--lr", 0.1)), "already exists")
    # The training would be the same, but the evaluation is of other questions.
    tested = {question.id for question in load_questions(world.questions, split="test")}
    fewer = world.questions.with_name("fewer.jsonl")
    rows = [row for row in read_rows(world.questions) if row["id"] != min(tested)]
    write_rows(fewer, rows)
    assert_error(run(*options(world, "--resume", "--questions", fewer)), "already exists")
    fewer.unlink()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "adapter").iterdir()} == whole


def assert_error_anywhere(result, message):
    code, _, err = result
    assert code == 2
    assert message in err
    assert "Traceback" not in err


# Manifests.


@pytest.mark.parametrize("command", [["evaluate"], ["grounding"], ["push"]])
def test_a_damaged_or_foreign_file_is_named(run, world, adapter, tmp_path, command):
    shutil.copytree(adapter, tmp_path / "copy")
    path = tmp_path / "copy" / "adapter_model.safetensors"
    asked = ["me/repo"] if command == ["push"] else ["--questions", world.questions, "--device", "cpu"]
    whole = path.read_bytes()
    for spoiled in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:-1]):
        path.write_bytes(spoiled)
        assert_error(run(*command, "copy", *asked), "adapter_model.safetensors: damaged, changed, or of another folder")
    path.unlink()
    assert_error(run(*command, "copy", *asked), "no adapter_model.safetensors there")


def test_a_layers_json_that_was_changed_is_refused(run, world, tmp_path):
    (tmp_path / "layers.json").write_text(layers_json())
    write_manifest(tmp_path, {"layers.json": tmp_path / "layers.json"})
    (tmp_path / "layers.json").write_text(layers_json(layers=[0, 1]))
    asked = ["--layers-from", "layers.json", "--model", world.model, "--questions", world.questions]
    for command in ([], ["ablate"]):
        assert_error(run(*command, *asked, "--out", "new"), "layers.json: damaged, changed, or of another folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["layers.json", "manifest.json"]


# At random.


def test_six_kills_at_random(tmp_path):
    """A short run of chaos.py."""
    command = [sys.executable, str(ROOT / "tests" / "chaos.py"), "--kills", "6", "--job", "finetune"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert ", 0 faults" in done.stdout.splitlines()[-1]
    assert "6 runs ended" in done.stdout

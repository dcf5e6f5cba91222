"""Training logs through accelerate's trackers: they hold the history, and nothing about the data or the machine."""

import json
import math
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from accelerate import tracking
from accelerate.tracking import GeneralTracker
from finetune_world import make_world
from test_finetune_cli import options, run  # noqa: F401
from test_processes import launch

from finetune.lora.settings import TrainSettings
from finetune.training import loop as training
from finetune.training.run import train_and_evaluate
from interp.model.spec import ModelSpec
from interp.questions.files import load_questions
from interp.questions.spec import DataSpec

LOGGED = {f"train/{name}" for name in training.LOGGED}
BLOCK = 32768
SETTINGS = TrainSettings(rank=2, alpha=4, epochs=2, batch_size=4)


class Recorder(GeneralTracker):
    """Stores what it receives; `until` is the step at which it raises an interruption."""

    name = "recorder"
    requires_logging_directory = False

    def __init__(self, until=math.inf):
        super().__init__()
        self.until, self.settings, self.steps, self.ended = until, None, [], 0

    @property
    def tracker(self):
        return self

    def store_init_configuration(self, values):
        self.settings = values

    def log(self, values, step=None, **kwargs):
        if step >= self.until:
            raise KeyboardInterrupt
        self.steps.append({"step": step, **values})

    def finish(self):
        self.ended += 1


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    torch.set_num_threads(1)
    return make_world(tmp_path_factory.mktemp("trackers") / "world", patients=4)


def trained(world, out, tracker, resume=False):
    train_and_evaluate(
        ModelSpec(world.model, device="cpu"),
        DataSpec(world.questions),
        out,
        SETTINGS,
        layers="1",
        log_with=tracker,
        resume=resume,
    )


def history(out):
    """history.csv in the form that a tracker receives."""
    table = pd.read_csv(out / "history.csv")
    return table.rename(columns={name: f"train/{name}" for name in table.columns if name != "step"})


def assert_same(steps, expected):
    found = pd.DataFrame(steps)
    assert set(found) == set(expected)
    # The file has six significant digits.
    pd.testing.assert_frame_equal(found[list(expected)], expected, check_dtype=False, rtol=1e-4)


def test_a_tracker_is_told_the_history_and_the_settings(world, tmp_path):
    tracker = Recorder()
    trained(world, tmp_path / "adapter", tracker)
    assert_same(tracker.steps, history(tmp_path / "adapter"))
    assert tracker.ended == 1
    told = {"rank": 2, "lr": SETTINGS.lr, "layers": "[1]", "steps": len(tracker.steps)}
    assert tracker.settings.items() >= told.items()
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"], "no folder for logs that are stored elsewhere"


def test_a_resumed_training_goes_on_with_the_steps(world, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    first, second = Recorder(until=4), Recorder()
    with pytest.raises(KeyboardInterrupt):
        trained(world, tmp_path / "adapter", first)
    assert first.ended == 1
    trained(world, tmp_path / "adapter", second, resume=True)
    assert [step["step"] for step in first.steps] == [1, 2, 3]
    assert second.steps[0]["step"] == 4
    assert_same(first.steps + second.steps, history(tmp_path / "adapter"))


def test_a_tracker_that_is_not_installed(run, world, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(tracking, "_available_trackers", [])
    code, out, err = run(*options(world, "--layers", "1", "--log-with", "tensorboard"))
    assert (code, out) == (2, "")
    assert err.startswith("error: --log-with tensorboard: tensorboard is not installed here.")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def records(path):
    """All records of a file that W&B writes while it is offline: a header of 7 bytes, then blocks of a LevelDB log."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        # 1: complete; 2 to 4: first, middle and last part.
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def start(*arguments, cwd):
    """Start one process."""
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=240)


@pytest.mark.parametrize("launched", [start, pytest.param(launch, marks=pytest.mark.slow)], ids=["one", "two"])
def test_wandb_is_offline_and_private(launched, world, tmp_path, monkeypatch):
    for name in ("WANDB_MODE", "WANDB_DIR", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    arguments = ["--model", world.model, "--questions", world.questions, "--device", "cpu", "--layers", "1"]
    arguments += ["--epochs", "2", "--batch-size", "4", "--out", "adapter", "--log-with", "wandb"]
    done = launched("-m", "finetune.cli.app", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "wandb:" not in done.stdout + done.stderr
    assert done.stderr.count("The training is logged to") == 1
    # Some versions of accelerate restart an offline run when they learn its settings; the first run is then empty.
    *empty, kept = sorted((tmp_path / "adapter.logs").rglob("*.wandb"), key=lambda path: path.parent.name)
    assert len(empty) <= 1
    assert all(path.stat().st_size < kept.stat().st_size / 2 for path in empty)
    assert kept.parent.name.startswith("offline-run-")
    steps, settings = [], {}
    for record in records(kept):
        if record.WhichOneof("record_type") == "history":
            row = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
            steps.append({name.replace("_step", "step"): row[name] for name in row if name in ("_step", *LOGGED)})
        elif (kind := record.WhichOneof("record_type")) in ("config", "run"):
            told = record.config if kind == "config" else record.run.config
            settings |= {item.key: json.loads(item.value_json) for item in told.update}
    assert_same(steps, history(tmp_path / "adapter"))
    assert settings["rank"] == 16
    held = kept.read_bytes()
    for question in load_questions(world.questions):
        assert question.question.encode() not in held
    for private in (str(tmp_path), str(world.model), str(Path.home()), socket.gethostname(), "--questions"):
        assert len(private) < 6 or private.encode() not in held, private

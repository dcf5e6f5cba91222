"""Provenance: how much of the command is recorded, and where the commit comes from."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Annotated, Literal

import pytest
import torch
import typer
from safetensors import safe_open

from interp.runtime.prefetch import map_beside
from interp.storage import checkpoint
from interp.storage.checkpoint import Checkpoint, read_tensors, write_tensors
from interp.storage.provenance import HIDDEN, Provenance, commit_of, joined, measurement, note_measured, provenance

SECRET = "Is there a nodule?"


@pytest.fixture
def told(tmp_path, monkeypatch):
    """A function that runs a command with many kinds of options and returns what is recorded of it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "local").mkdir()
    app, found = typer.Typer(), []

    @app.callback()
    def root() -> None:
        pass

    @app.command("do-it")
    def do(
        places: list[Path],
        model: str = "m",
        layers: str = "all",
        split: Annotated[Literal["train", "test"], typer.Option()] = "train",
        out: Path | None = None,
        seed: Annotated[int, typer.Option("--seed", "-s")] = 0,
        rate: float = 0.5,
        clamp: Annotated[list[str] | None, typer.Option()] = None,
        first: Annotated[bool, typer.Option("--first/--last")] = True,
    ) -> None:
        found.append(provenance())

    def call(*arguments: str) -> str:
        app(["do-it", *arguments], prog_name="/usr/bin/tool", standalone_mode=False)
        return found[-1].command.split(" do-it ")[1]

    return call


def test_a_command_is_recorded_without_paths_and_text(told):
    assert told("secret/a.jsonl", "b", "--out", "patient7") == f"{HIDDEN} {HIDDEN} --out {HIDDEN}"
    said = told("x", "--layers", "15-19", "--split", "test", "-s", "3", "--rate", "1e-3", "--last")
    assert said == f"{HIDDEN} --layers 15-19 --split test --seed 3 --rate 0.001 --last"
    said = told("x", "--clamp", "5:466", "--clamp", SECRET, "--model", "google/medgemma-4b-it")
    assert said == f"{HIDDEN} --model {HIDDEN} --clamp 5:466 --clamp {HIDDEN}"
    # This word is the name of a folder here.
    assert told("x", "--model", "local") == f"{HIDDEN} --model {HIDDEN}"


def test_a_call_from_python_has_no_command():
    found = provenance()
    assert found.command is None
    assert found.started.endswith("+00:00")
    assert "threads" in found.device
    assert Provenance.model_validate_json(found.model_dump_json()) == found


def test_the_commit_is_that_of_the_folder_itself(tmp_path):
    def git(*arguments: str, cwd: Path) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(["git", *identity, *arguments], cwd=cwd, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    code = tmp_path / "code"
    (code / "inner").mkdir(parents=True)
    assert commit_of(code) is None
    git("init", "-q", cwd=code)
    assert commit_of(code) is None
    git("commit", "-q", "--allow-empty", "-m", "one", cwd=code)
    first = git("rev-parse", "HEAD", cwd=code)
    assert commit_of(code) == first
    assert commit_of(code / "inner") is None
    git("worktree", "add", "-q", str(tmp_path / "tree"), cwd=code)
    git("commit", "-q", "--allow-empty", "-m", "two", cwd=tmp_path / "tree")
    assert commit_of(tmp_path / "tree") == git("rev-parse", "HEAD", cwd=tmp_path / "tree") != first
    git("pack-refs", "--all", cwd=code)
    assert commit_of(code) == first
    git("checkout", "-q", "--detach", cwd=code)
    assert commit_of(code) == first
    shutil.rmtree(code / ".git" / "objects")
    assert commit_of(code) == first
    (code / ".git" / "HEAD").write_text("ref: refs/heads/none\n")
    assert commit_of(code) is None


def earlier(day: int, device: str = "1 x old GPU") -> Provenance:
    return Provenance(commit="a" * 40, device=device, command="interp find-features", started=f"2020-01-0{day}T00:00")


def test_a_resumed_measurement_keeps_when_and_where_it_was_begun(tmp_path, monkeypatch):
    parts = {}
    for day in (2, 1):
        monkeypatch.setattr(checkpoint, "provenance", lambda day=day: earlier(day))
        write_tensors(tmp_path / f"{day}.safetensors", {"x": torch.ones(2)}, {})
        parts[day] = tmp_path / f"{day}.safetensors"
    monkeypatch.undo()
    alone = provenance()
    with measurement():
        for part in parts.values():
            read_tensors(part, {})
        found = provenance()
        # What is written now says so as well, so that a third process knows of the first.
        write_tensors(tmp_path / "3.safetensors", {"x": torch.ones(2)}, {})
    assert (found.started, found.device) == ("2020-01-01T00:00", "1 x old GPU")
    assert [process.started for process in found.resumed] == ["2020-01-02T00:00", alone.started]
    with measurement():
        read_tensors(tmp_path / "3.safetensors", {})
        assert provenance() == found
    # The next measurement of this process has nothing to do with it.
    assert provenance() == alone
    assert alone.resumed == []


def test_the_threads_of_a_command_record_its_command_and_what_they_read(tmp_path):
    app = typer.Typer()

    @app.command("do-it")
    def do() -> None:
        with measurement(), Checkpoint(tmp_path, {}).writing_beside() as kept:
            with map_beside(note_measured, [earlier(1)], 1) as noted:
                assert list(noted) == [None]
            kept.write_stage("stage", {"x": torch.ones(1)}, {"y": torch.ones(2)})

    app([], prog_name="tool", standalone_mode=False)
    (path,) = tmp_path.glob("stage-*.safetensors")
    with safe_open(path, "pt") as saved:
        found = Provenance.model_validate(json.loads(saved.metadata()["record"])["provenance"])
    assert [process.command for process in found.processes()] == ["interp find-features", "tool"]


def test_parts_of_one_process_are_one_process():
    found = joined([earlier(1, "CPU"), earlier(1), earlier(2)])
    assert (found.device, [process.started for process in found.resumed]) == ("1 x old GPU", ["2020-01-02T00:00"])

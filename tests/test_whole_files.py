"""Locks on folders, manifests, and atomic writing."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from finetune.cli.app import main as finetune_main
from interp.cli.app import main as interp_main
from interp.paths import WORLD
from interp.runtime.errors import InputError
from interp.storage.atomic import atomic_file, atomic_folder, refuse_unwritable, refuse_used, write_text
from interp.storage.lock import held
from interp.storage.manifest import check_manifest, write_manifest
from interp.storage.working_folder import working, working_folder

ROOT = Path(__file__).parents[1]

HOLD = "import sys, time; from pathlib import Path; from interp.storage.lock import held\n"
HOLD += "with held(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)"


def test_a_second_process_is_refused_and_a_dead_one_does_not_block(tmp_path):
    folder = tmp_path / "deep" / "folder"
    other = subprocess.Popen([sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=rf"folder: process {other.pid} on \S+ is working on it"), held(folder):
            raise AssertionError("two processes hold it at once")
        assert folder.is_dir()
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert (folder / ".lock").is_file(), "a killed process removes no lock file"
    with held(folder):
        (folder / "mine").write_text("kept")
    assert [path.name for path in folder.iterdir()] == ["mine"]
    with held(tmp_path / "a" / "b"):
        pass
    assert not (tmp_path / "a").exists(), "folders that stay empty are removed"


def test_a_lock_file_that_cannot_be_removed_is_released(tmp_path, monkeypatch):
    """Windows refuses to remove an open file."""

    def refuse(*_, **__):
        raise PermissionError(13, "The process cannot access the file because it is being used by another process")

    with monkeypatch.context() as patch, held(tmp_path / "out"):
        patch.setattr(Path, "unlink", refuse)
    with held(tmp_path / "out"):
        pass
    assert not (tmp_path / "out").exists()


def test_a_folder_with_the_lock_of_a_killed_process_is_as_good_as_empty(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".lock").write_text("process 1 on host")
    with atomic_folder(tmp_path / "out") as partial:
        (partial / "result").write_text("whole")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["result"]


def test_results_have_the_permissions_of_the_umask(tmp_path):
    code = "import os, sys; os.umask(0o077)\nfrom pathlib import Path\n"
    code += "from interp.storage.atomic import atomic_folder, write_text\n"
    code += "write_text(Path('a'), 'x')\nwith atomic_folder(Path('b')) as part:\n    (part / 'c').write_text('x')\n"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes == {"a": 0o600, "b": 0o700, "c": 0o600}


def test_a_manifest_names_files_that_changed(tmp_path):
    for name, text in (("a", "one"), ("b", "two"), ("README.md", "card")):
        (tmp_path / name).write_text(text)
    check_manifest(tmp_path)
    write_manifest(tmp_path, {name: tmp_path / name for name in ("a", "b", "README.md")}, {"lr": 1})
    content = json.loads((tmp_path / "manifest.json").read_text())
    sha = "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
    assert content["files"]["a"] == {"size": 3, "sha256": sha}
    assert set(content["files"]) == {"a", "b"}
    (tmp_path / "README.md").write_text("another card")
    (tmp_path / "notes").write_text("of mine")
    check_manifest(tmp_path)
    (tmp_path / "b").write_text("twa")
    check_manifest(tmp_path, ["a"])
    with pytest.raises(InputError, match="b: damaged, changed"):
        check_manifest(tmp_path)
    (tmp_path / "b").unlink()
    with pytest.raises(InputError, match=r"b: absent, but manifest.json names it"):
        check_manifest(tmp_path)
    for text, message in (
        ("{", "Invalid JSON"),
        (json.dumps(content | {"schema_version": 3}), "schema version 3"),
        (json.dumps(content | {"files": {"../b": content["files"]["b"]}}), "is not the name of a file in the folder"),
    ):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(InputError, match=message):
            check_manifest(tmp_path)


def test_a_full_disk_is_one_message_and_leaves_the_old_file(tmp_path):
    (tmp_path / "file").write_text("before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(InputError, match="file: there is no room"), atomic_file(tmp_path / "file") as partial:
            partial.write_bytes(bytes(5000))
        with pytest.raises(InputError, match="folder: there is no room"), atomic_folder(tmp_path / "folder") as partial:
            save_file({"weights": torch.zeros(5000)}, partial / "weights.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "before"


LONG = "x" * 300


@pytest.mark.parametrize("place", ["/sys/kernel/x", "file/x", "file/deep/x", LONG, f"{LONG}/x", "loop/x"])
def test_a_place_that_cannot_be_written_is_refused_early_and_late(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    Path("loop").symlink_to("loop")
    before = sorted(tmp_path.rglob("*"))
    tries = [
        lambda path: refuse_used(path),
        lambda path: refuse_unwritable(path.absolute()),
        lambda path: write_text(path, "x"),
        lambda path: atomic_folder(path).__enter__(),
        lambda path: held(path).__enter__(),
        lambda path: working(working_folder(path)).__enter__(),
    ]
    for attempt in tries:
        with pytest.raises(InputError, match="cannot be written"):
            attempt(Path(place))
    assert sorted(tmp_path.rglob("*")) == before


def test_looking_whether_a_place_can_be_written_leaves_nothing(tmp_path):
    refuse_used(tmp_path / "a" / "b" / "c")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "command",
    [
        ["interp", "find-features"],
        ["interp", "transfer-check"],
        ["interp", "test-feature", "5:466"],
        ["interp", "report", "."],
        ["interp", "schemas"],
        ["interp", "demo", "build"],
        ["interp", "paraphrase", str(WORLD / "questions.jsonl")],
        ["interp", "import-questions", str(WORLD / "questions.jsonl"), "--format", "jsonl"],
        ["finetune", "--layers", "4"],
        ["finetune", "evaluate", "--clamp", "5:466"],
        ["finetune", "grounding"],
    ],
)
def test_no_command_ends_in_a_traceback_for_its_out(command, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    for place in ("file/x", LONG):
        monkeypatch.setattr(sys, "argv", [*command, "--out", place])
        with pytest.raises(SystemExit) as stopped:
            (interp_main if command[0] == "interp" else finetune_main)()
        assert stopped.value.code == 2
        assert "cannot be written" in capsys.readouterr().err

"""Kills, full disks and full memory at random instants, for every command that can resume: the result must not change.

`python tests/chaos.py --kills 200` runs it for real, on the tiny world of the tests. Commands are run in children of
this process, which has loaded the libraries once, so that most kills fall into the work.
"""

import argparse
import importlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from conftest import read_rows, write_rows
from finetune_world import make_world
from test_ablate_statistics import profile_of
from test_finetune_cli import layers_json

import finetune.cli.app
import interp.cli.app
from finetune.training import loop as train
from interp.runtime.errors import EXIT_NO_GATE
from interp.storage import prompt_parts
from interp.storage.manifest import check_manifest

LOADED = ("peft", "scipy.stats", "statsmodels.api", "transformers.models.gemma3", "transformers.models.siglip")
LOADED += (
    "finetune.training.run",
    "finetune.ablation.run",
    "finetune.grounding.run",
    "matplotlib.figure",
    "interp.search.run_folder",
)
"""Modules that every command loads; imported once for all children."""
PATIENTS = 6
OUT = "out"
MAIN = {"interp": interp.cli.app.main, "finetune": finetune.cli.app.main}
CRASHED = 70
"""Exit code of a child that ended with an error that is not an InputError."""


class Job(NamedTuple):
    """A command that can be resumed."""

    name: str
    """Name of the job in the counts."""
    program: str
    """The program: interp or finetune."""
    arguments: list[str]
    """Arguments of the program, without --resume."""
    resume: list[str]
    """Arguments that resume an interrupted run."""
    done: int = 0
    """Exit code of a complete run."""


def child(
    program: str, arguments: list[str], folder: Path, log: Path, prepare: Callable[[], None] = lambda: None
) -> int:
    """Start a command in a child process, in `folder`; returns its process id. Its stderr goes into `log`."""
    sys.stdout.flush()
    number = os.fork()
    if number:
        return number
    code = CRASHED
    try:
        os.chdir(folder)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # torch recreates its thread pool after a fork; two threads that use it first at the same time would break it.
        torch.set_num_threads(1)
        # Every step and every batch is written, so each can be the last one.
        train.CHECKPOINT_SECONDS = prompt_parts.CHECKPOINT_SECONDS = 0.0
        prepare()
        sys.argv = [program, *arguments]
        try:
            MAIN[program]()
            code = 0
        except SystemExit as stopped:
            code = stopped.code or 0
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(number: int, seconds: float) -> int | None:
    """The exit code of a child, negative for a signal; None if it still runs after that many seconds."""
    limit = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(number, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= limit:
            return None
        time.sleep(0.002)


def content(out: Path) -> dict[str, object]:
    """The content of a result, byte for byte, without durations and provenance."""
    found: dict[str, object] = {}
    for path in sorted(out.rglob("*")):
        if path.is_dir():
            continue
        name = str(path.relative_to(out))
        if path.name == "README.md":
            found[name] = re.sub(r"Trained in [\d.]+ s", "", path.read_text())
        elif path.suffix == ".json":
            found[name] = json.dumps(timeless(json.loads(path.read_text())))
        elif path.suffix == ".parquet":
            table = pd.read_parquet(path)
            record = timeless(json.loads(table.attrs.get("gatescope", "{}")))
            # The digits of a number in a CSV tell all of its bits.
            found[name] = (json.dumps(record), table.to_csv())
        else:
            found[name] = path.read_bytes()
    return found


def timeless(content: object) -> object:
    """JSON without durations, provenance and the checksums of JSON files."""
    if isinstance(content, list):
        return [timeless(inside) for inside in content]
    if not isinstance(content, dict):
        return content
    differ = {"seconds", "provenance"} | {name for name in content if name.endswith(".json")}
    return {name: timeless(inside) for name, inside in content.items() if name not in differ}


def jobs(world: Path, adapter: Path) -> list[Job]:
    """The jobs on a world; `adapter` is for those that need one."""
    shared = ["--model", str(world / "model"), "--questions", str(world / "questions.jsonl"), "--device", "cpu"]
    training = [*shared, "--lr", "0.005", "--dropout", "0.1", "--rank", "4", "--limit", "12", "--out", OUT]
    ablation = ["--layers-from", str(world / "layers.json"), "--seeds", "0", "--arms", "window,random", "--limit", "8"]
    maps = ["--maps", "attention,occlusion", "--any-answer"]
    return [
        Job(
            "find-features",
            "interp",
            [
                "find-features",
                "--layers",
                "4-5",
                "--limit",
                "90",
                "--device",
                "cpu",
                "--batch-tokens",
                "2",
                "--out",
                OUT,
            ],
            ["--resume"],
            EXIT_NO_GATE,
        ),
        Job("finetune", "finetune", ["--layers", "1-2", "--epochs", "4", "--batch-size", "3", *training], ["--resume"]),
        Job(
            "finetune, swap",
            "finetune",
            ["--layers", "1", "--epochs", "2", "--batch-size", "4", "--grounding", "swap", *training],
            ["--resume"],
        ),
        Job("ablate", "finetune", ["ablate", *ablation, *shared, "--epochs", "1", "--lr", "0.005", "--out", OUT], []),
        Job("grounding", "finetune", ["grounding", str(adapter), *maps, *shared, "--out", OUT], ["--resume"]),
    ]


def prepared(folder: Path, names: list[str]) -> list[Job]:
    """Build a tiny world with a layers.json in `folder`, and an adapter if needed; returns the named jobs, or all."""
    world = make_world(folder / "world", patients=PATIENTS)
    rows = read_rows(world.questions)
    write_rows(
        world.questions, [row | {"boxes": [[4, 6, 15, 20]]} if row["type"] == "presence" else row for row in rows]
    )
    entries = [entry.model_dump() for entry in profile_of([0.6, 0.8, 0.7])]
    (folder / "world" / "layers.json").write_text(layers_json(profile=entries))
    made = jobs(folder / "world", folder / "adapter" / OUT)
    if not names or "grounding" in names:
        (folder / "adapter").mkdir()
        log = folder / "log.txt"
        assert ended(child("finetune", made[1].arguments, folder / "adapter", log), 240) == 0, log.read_text()
    return [job for job in made if not names or job.name in names]


def no_room(rng: random.Random) -> None:
    """No file may exceed a random size, as with a quota: writing beyond it fails."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(2 ** rng.uniform(12, 17)), resource.RLIM_INFINITY))


def no_memory(rng: random.Random) -> None:
    """From a random pass on, GPU memory is too small for the model."""
    from finetune.training.forward import FirstTokenLogits
    from interp.measurement import margins as measurement
    from interp.measurement import suffix_rerun as replay

    left = [rng.randrange(20)]

    def limited(forward):
        def call(*arguments):
            left[0] -= 1
            if left[0] < 0:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return forward(*arguments)

        return call

    FirstTokenLogits.forward = limited(FirstTokenLogits.forward)
    measurement.final_logits, replay.rerun_suffix = limited(measurement.final_logits), limited(replay.rerun_suffix)


class Chaos:
    """Strikes commands in turn, resumes them until they are complete, and compares their results."""

    def __init__(self, folder: Path, disk: Path | None, kills: int, seed: int, names: list[str]) -> None:
        self.folder, self.disk, self.kills, self.rng = folder, disk, kills, random.Random(seed)
        self.log = folder / "log.txt"
        self.struck: Counter = Counter()
        """(job, fault) -> number of runs that the fault ended early."""
        self.compared: Counter = Counter()
        """Job -> number of results that were completed and compared."""
        self.faults: list[str] = []
        """Descriptions of all failures."""
        self.jobs = prepared(folder, names)
        self.seconds: dict[str, float] = {}
        self.wanted: dict[str, dict[str, object]] = {}

    def run(self) -> None:
        """Run all jobs uninterrupted, then in turn until enough faults have struck."""
        for job in self.jobs:
            home = self.folder / f"whole {job.name}"
            home.mkdir()
            started = time.monotonic()
            assert ended(child(job.program, job.arguments, home, self.log), 300) == job.done, self.log.read_text()
            self.seconds[job.name], self.wanted[job.name] = time.monotonic() - started, content(home / OUT)
        turn = 0
        while self.struck.total() < self.kills:
            job = self.jobs[turn % len(self.jobs)]
            home = (self.disk or self.folder) / f"run {turn}"
            home.mkdir()
            started = time.monotonic()
            if not self._cycle(job, home):
                # Adapts to the current speed of the machine.
                self.seconds[job.name] = time.monotonic() - started
            shutil.rmtree(home)
            turn += 1
            print(f"{self.struck.total()} of {self.kills}, {len(self.faults)} faults: {job.name}", flush=True)

    def _cycle(self, job: Job, home: Path) -> int:
        """Run one job to completion and compare its result; returns how often it was struck."""
        for attempt in range(60):
            enough = self.struck.total() >= self.kills
            (fault,) = self.rng.choices(list(FAULTS), list(FAULTS.values())) if not enough else ("none",)
            code = self._strike([*job.arguments, *(job.resume if attempt else [])], home, fault, job)
            said = self.log.read_text()
            if code == job.done:
                break
            self.struck[job.name, fault] += 1
            if code not in CODES[fault] or "Traceback" in said:
                self._fault(f"{job.name}, {fault}: exit code {code}: {said[-1500:]}")
        else:
            self._fault(f"{job.name}: not done after 60 runs")
            return attempt
        self._compare(job, home)
        return attempt

    def _strike(self, arguments: list[str], home: Path, fault: str, job: Job) -> int | None:
        """Run once with a fault, which may come too late; returns the exit code."""
        chance, filler = random.Random(self.rng.random()), home.parent / "filler"
        prepare: Callable[[], None] = lambda: None  # noqa: E731
        if fault == "memory":
            prepare = lambda: no_memory(chance)  # noqa: E731
        elif fault == "disk" and self.disk:
            fill(filler, self.disk, chance)
        elif fault == "disk":
            prepare = lambda: no_room(chance)  # noqa: E731
        number = child(job.program, arguments, home, self.log, prepare)
        timed = fault in ("kill", "interrupt")
        code = ended(number, self.rng.uniform(0, self.seconds[job.name]) if timed else 300)
        if code is None:
            os.kill(number, signal.SIGINT if fault == "interrupt" else signal.SIGKILL)
            code = ended(number, 60)
        filler.unlink(missing_ok=True)
        return code

    def _compare(self, job: Job, home: Path) -> None:
        found, wanted = content(home / OUT), self.wanted[job.name]
        other = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
        left = sorted(path.name for path in home.rglob("*") if path.name.startswith(".") or path.suffix == ".partial")
        if other:
            self._fault(f"{job.name}: differs in {', '.join(other)}")
        if left:
            self._fault(f"{job.name}: left {', '.join(left)}")
        check_manifest(home / OUT)
        self.compared[job.name] += 1

    def _fault(self, what: str) -> None:
        self.faults.append(what)
        print(f"FAULT {what}", flush=True)


FAULTS = {"kill": 75, "interrupt": 6, "disk": 9, "memory": 7, "none": 3}
"""The faults, and how often each is chosen."""
CODES = {"kill": (-9,), "interrupt": (130, -2), "disk": (2,), "memory": (2,), "none": ()}
"""Exit codes of incomplete runs."""


def fill(filler: Path, disk: Path, rng: random.Random) -> None:
    """Leave little space on a disk."""
    state = os.statvfs(disk)
    filler.write_bytes(bytes(max(0, state.f_bavail * state.f_frsize - int(2 ** rng.uniform(12, 19)))))


@contextmanager
def small_disk(at: Path, megabytes: int = 8) -> Iterator[Path | None]:
    """A small file system in memory; None without the right to mount one."""
    at.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(at)], capture_output=True, check=False
    )
    if mounted.returncode:
        yield None
        return
    try:
        yield at
    finally:
        subprocess.run(["umount", str(at)], check=True)


def main() -> None:
    """Run everything and report; exit code 1 after any failure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="runs that are to be ended before they are done")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--job", action="append", default=[], help="only this one; may be given several times")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for module in LOADED:
        importlib.import_module(module)
    with tempfile.TemporaryDirectory() as name, small_disk(Path(name) / "disk") as disk:
        trial = Chaos(Path(name), disk, options.kills, options.seed, options.job)
        trial.run()
    print("small disk" if disk else "limited file sizes")
    for (job, fault), count in sorted(trial.struck.items()):
        print(f"{job:<16}{fault:<12}{count}")
    print(f"{trial.struck.total()} runs ended, {trial.compared.total()} results compared, {len(trial.faults)} faults")
    sys.exit(bool(trial.faults))


if __name__ == "__main__":
    main()

"""Several machines, rehearsed as several launches on this one: the same tables and adapter, and an end if one dies.

`pytest -m slow tests/test_machines.py` runs it in some minutes.
"""

import json
import os
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from finetune_world import make_world
from safetensors.torch import load_file
from test_ablate_statistics import profile_of
from test_finetune_cli import layers_json
from test_processes import same_arms

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "interp" / "runtime" / "slurm.sh"
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
SRUN = """#!/bin/bash
# Like srun on one node: starts every task of the job and ends the others if one fails.
shift
for ((task = 0; task < SLURM_NTASKS; task++)); do SLURM_PROCID=$task SLURM_LOCALID=$task "$@" & done
for ((task = 0; task < SLURM_NTASKS; task++)); do
  wait -n || { code=$?; kill $(jobs -p) 2>/dev/null; wait; exit $code; }
done
"""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("", 0))
        return free.getsockname()[1]


def machine(rank: int, port: int, arguments: list[object], cwd: Path) -> subprocess.Popen:
    """The launch of one machine of two; each has one process."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "2"]
    command += ["--machine_rank", str(rank), "--num_processes", "2", "--main_process_ip", "127.0.0.1"]
    command += ["--main_process_port", str(port), "--mixed_precision", "no", "--dynamo_backend", "no"]
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def on_two_machines(arguments: list[object], cwd: Path) -> list[str]:
    """Run a command on two machines and return what each wrote to stderr."""
    port = free_port()
    started = [machine(rank, port, arguments, cwd) for rank in range(2)]
    return [process.communicate(timeout=300)[1] for process in started]


def alone(arguments: list[object], cwd: Path) -> None:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode in (0, 3), done.stderr


def test_two_machines_find_bit_by_bit_what_one_finds(tmp_path):
    find = ["-m", "interp", "find-features", "--device", "cpu", "--limit", "150", "--layers", "3-6", "--out"]
    said = on_two_machines([*find, "two"], tmp_path)
    alone([*find, "one"], tmp_path)
    one, two = (json.loads((tmp_path / out / "layers.json").read_text()) for out in ("one", "two"))
    for found in (one, two):
        del found["provenance"]
    assert one == two, said
    for name in ("features.parquet", "features.csv", "layer_profile.csv"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes(), name


TRAIN = ["-m", "finetune", "--device", "cpu", "--layers", "1-2", "--dropout", "0", "--rank", "4", "--lr", "0.005"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("machines") / "world", patients=8)


def test_two_machines_train_the_adapter_of_one(world, tmp_path):
    given = [*TRAIN, "--model", world.model, "--questions", world.questions, "--epochs", "2", "--out"]
    said = on_two_machines([*given, "two"], tmp_path)
    alone([*given, "one"], tmp_path)
    assert (tmp_path / "two").is_dir(), said
    one, two = (load_file(tmp_path / out / "adapter_model.safetensors") for out in ("one", "two"))
    assert set(one) == set(two)
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, atol=1e-5, rtol=1e-3)
    assert max(float(weight.abs().max()) for name, weight in one.items() if "lora_B" in name) > 1e-3


def test_a_machine_that_dies_ends_the_other_with_a_message(world, tmp_path):
    given = [*TRAIN, "--model", world.model, "--questions", world.questions, "--epochs", "5000", "--out", "never"]
    port = free_port()
    first, second = (machine(rank, port, given, tmp_path) for rank in range(2))
    until = time.monotonic() + 120
    # Both work once the folder of the unfinished training is there.
    while not (tmp_path / "never.partial").exists() and time.monotonic() < until:
        time.sleep(0.5)
    time.sleep(5)
    # The whole machine: the launcher and its process, which has a session of its own.
    for process in (*psutil.Process(second.pid).children(recursive=True), psutil.Process(second.pid)):
        process.kill()
    _, said = first.communicate(timeout=90)
    second.communicate()
    assert first.returncode != 0
    assert said.count("error: ") == 1
    assert "Another process of this run has ended, so this one cannot continue" in said
    assert not (tmp_path / "never").exists()


@pytest.fixture
def slurm(tmp_path):
    """Runs a job as `sbatch slurm.sh ...` would on one node, with stand-ins for Slurm's own commands."""
    tools = tmp_path / "tools"
    tools.mkdir()
    python = f'#!/bin/bash\nmodule=$(basename "$0")\nexec {sys.executable} -m "$module" "$@"\n'
    texts = {"srun": SRUN, "scontrol": "#!/bin/bash\necho localhost\n", "interp": python, "finetune": python}
    for name, text in texts.items():
        (tools / name).write_text(text)
        (tools / name).chmod(stat.S_IRWXU)

    def run(*arguments: object, tasks: int = 1, **variables: str) -> subprocess.CompletedProcess:
        given = {"PATH": f"{tools}:{os.environ['PATH']}", "SLURM_JOB_ID": str(free_port() - 20000)}
        given |= {"SLURM_JOB_NODELIST": "localhost", "SLURM_CPUS_PER_TASK": "1"}
        given |= {"SLURM_NTASKS": str(tasks), "SLURM_NTASKS_PER_NODE": str(tasks), **variables}
        return subprocess.run(
            ["bash", SCRIPT, *map(str, arguments)],
            cwd=tmp_path,
            env=os.environ | ENVIRONMENT | given,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


def test_a_slurm_job_of_two_tasks_finds_what_one_process_finds(slurm, tmp_path):
    find = ["find-features", "--device", "cpu", "--limit", "110", "--layers", "4-5", "--out"]
    done = slurm("interp", *find, "two", tasks=2)
    assert done.returncode in (0, 3), done.stderr
    alone(["-m", "interp", *find, "one"], tmp_path)
    assert (tmp_path / "two" / "features.parquet").read_bytes() == (tmp_path / "one" / "features.parquet").read_bytes()


def test_a_task_that_fails_ends_the_job(slurm, tmp_path):
    done = slurm("interp", "find-features", "--questions", "missing.jsonl", "--out", "none", tasks=2)
    assert done.returncode == 2
    assert done.stderr.count("error: ") == 1
    assert "missing.jsonl" in done.stderr


def test_a_job_array_trains_the_arms_of_one_ablation(slurm, world, tmp_path):
    (tmp_path / "layers.json").write_text(
        layers_json(profile=[entry.model_dump() for entry in profile_of([0.6, 0.8, 0.7])])
    )
    given = ["ablate", "--device", "cpu", "--model", world.model, "--questions", world.questions, "--layers-from"]
    given += ["layers.json", "--arms", "window", "--rank", "2", "--epochs", "1"]
    for task in range(2):
        job = [*given, "--seeds", "{task}", "--out", "part-{task}"]
        done = slurm("finetune", *job, SLURM_ARRAY_TASK_ID=str(task))
        assert done.returncode == 0, done.stderr
    merged = tmp_path / "merged" / "arms"
    merged.mkdir(parents=True)
    for part in sorted(tmp_path.glob("part-*/arms/*.parquet")):
        (merged / part.name).write_bytes(part.read_bytes())
    before = {path.name: path.stat().st_mtime_ns for path in merged.iterdir()}
    alone(["-m", "finetune", *given, "--seeds", "0,1", "--out", "merged"], tmp_path)
    assert {path.name: path.stat().st_mtime_ns for path in merged.iterdir()} == before
    alone(["-m", "finetune", *given, "--seeds", "0,1", "--out", "whole"], tmp_path)
    assert same_arms(tmp_path / "whole" / "arms", merged) == len(before) > 3
    one, two = (json.loads((tmp_path / out / "ablation.json").read_text()) for out in ("merged", "whole"))
    assert one["regret"] == two["regret"]

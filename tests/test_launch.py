"""Launchers that are not there, and their variables when empty or wrong: one message, and never a wait without end."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from interp.runtime import distributed
from interp.runtime.distributed import check_launcher_variables, is_first_to_report, meet, process_count
from interp.runtime.errors import InputError, first_line


@pytest.fixture
def launched(monkeypatch):
    """Sets the launcher's variables, and nothing else of a launcher."""

    def call(**variables):
        for name in (*distributed.LAUNCHER_VARIABLES, "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))

    meet.cache_clear()
    yield call
    meet.cache_clear()


def test_empty_variables_mean_a_single_process(launched):
    launched(WORLD_SIZE="", RANK=" ", LOCAL_RANK="")
    assert process_count() == 1
    check_launcher_variables()
    # Libraries would read them as numbers.
    assert not set(distributed.LAUNCHER_VARIABLES) & set(os.environ)
    assert meet() is None


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two', expected a number from 1"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0'"),
        ({"WORLD_SIZE": "-2"}, "WORLD_SIZE is '-2'"),
        ({"WORLD_SIZE": "1.5"}, "WORLD_SIZE is '1.5'"),
        ({"WORLD_SIZE": "2"}, "RANK is not set"),
        ({"WORLD_SIZE": "2", "RANK": "x"}, "RANK is 'x'"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK is 2, expected less than WORLD_SIZE"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "a"}, "LOCAL_RANK is 'a'"),
    ],
)
def test_wrong_variables_are_named(launched, variables, message):
    launched(**variables)
    with pytest.raises(InputError, match=message):
        check_launcher_variables()
    # The message must be printed although the number of processes is not known.
    if "RANK" not in variables:
        assert is_first_to_report()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("", 0))
        return free.getsockname()[1]


@pytest.mark.parametrize("rank", [0, 1])
def test_processes_that_do_not_come_are_not_waited_for(launched, monkeypatch, rank):
    monkeypatch.setattr(distributed, "LOCAL_MEETING", distributed.timedelta(seconds=2))
    launched(WORLD_SIZE=2, RANK=rank, MASTER_ADDR="localhost", MASTER_PORT=free_port())
    started = time.monotonic()
    with pytest.raises(InputError, match="the other processes did not come to localhost"):
        meet()
    assert time.monotonic() - started < 15


def test_without_an_address_nobody_can_come(launched):
    launched(WORLD_SIZE=2, RANK=0)
    with pytest.raises(InputError, match="MASTER_ADDR is not set"):
        meet()
    launched(WORLD_SIZE=2, RANK=0, TORCHELASTIC_RUN_ID="none")
    assert meet() is None


MEETS = """
import os, sys, time
time.sleep(float(sys.argv[1]))
from interp.runtime.distributed import team_on
team = team_on("cpu")
print(team.gather_values(team.rank))
team.shut_down()
"""


def said_by_two(program: str, *late: float) -> list[str]:
    """What two processes print that no launcher started; each is given the seconds by which it is to come late."""
    variables = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(seconds)],
            env=os.environ | variables | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank, seconds in enumerate(late)
    ]
    said = [process.communicate(timeout=100)[0].strip() for process in started]
    assert [process.returncode for process in started] == [0, 0]
    return said


def test_processes_that_come_late_still_work_together_without_a_launcher():
    assert said_by_two(MEETS, 0, 3) == ["[0, 1]", "[0, 1]"]


ENDS = """
import atexit
from pathlib import Path
from interp.runtime.distributed import team_on

def threads():
    return {{path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")}}

def print_threads():
    print("gloo" in " ".join(threads()), end=" ")

atexit.register(print_threads)
team = team_on("cpu")
# As transformers does when it loads a model; the functions of this module keep a process group that is there before it.
import torch.distributed.nn
team.barrier()
print_threads()
{end}
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads the names of a process's threads from /proc")
@pytest.mark.parametrize(("end", "left"), [("", "False"), ("team.shut_down(); print_threads()", "False False")])
def test_a_script_ends_without_threads_that_could_abort_it(end, left):
    assert said_by_two(ENDS.format(end=end), 0, 0) == [f"True {left}"] * 2


def test_the_first_line_of_an_error_that_says_something():
    nested = (
        '\n\n==========\nTraceback (most recent call last):\n  File "/x/y.py", line 3, in f\n    raise Boom()\n'
        "    ^^^^^^^^^^^^\nValueError: no such key\n"
    )
    assert first_line(RuntimeError(nested)) == "ValueError: no such key"
    assert first_line(RuntimeError("plain\nmore")) == "plain"
    assert first_line(RuntimeError("  \n--- \n")) == "RuntimeError"
    assert first_line(KeyError()) == "KeyError"


@pytest.mark.parametrize(("main", "code"), [(True, 3), (False, 0)])
def test_only_the_process_that_prints_ends_with_the_code_of_a_verdict(called, tmp_path, monkeypatch, main, code):
    """A launcher stops the others when one ends with a code, and the main one may still print."""
    monkeypatch.setattr("interp.cli.find_features.is_main", lambda: main)
    ended, out, _ = called("interp", "find-features", "--limit", 3, "--layers", 4, "--out", tmp_path / "run")
    assert (ended, "too few flips" in out) == (code, main)

"""The process of a command ends at once, but with everything that belongs to its end."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import atexit, sys, threading, time
from interp.cli.process import run_process

class Imported:
    def __del__(self):
        print("taken apart")

imported = Imported()

def late():
    time.sleep(0.2)
    print("thread")

def main():
    atexit.register(print, "registered")
    threading.Thread(target=late).start()
    sys.stdout.write("written ")
    {end}

run_process(main)
"""

SHORT = """
from interp.cli.process import run_process
run_process(lambda: print("short"))
"""


@pytest.mark.parametrize(("end", "code"), [("pass", 0), ("sys.exit(3)", 3), ("sys.exit()", 0), ("sys.exit('said')", 1)])
def test_the_end_of_a_command(end, code):
    ended = subprocess.run([sys.executable, "-c", PROGRAM.format(end=end)], capture_output=True, text=True, timeout=60)
    assert ended.returncode == code
    assert ended.stdout.split() == ["written", "thread", "registered"]
    assert ended.stderr.strip() == ("said" if "said" in end else "")


def test_an_error_ends_a_command_as_usual():
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(end="1 / 0")], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 1
    assert ended.stdout.split() == ["written", "thread", "registered", "taken", "apart"]
    assert "ZeroDivisionError" in ended.stderr


def test_a_closed_output_is_no_error_and_a_full_one_is():
    program = [sys.executable, "-c", SHORT]
    closed = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *program], capture_output=True, timeout=60)
    assert (closed.returncode, closed.stderr) == (0, b"")
    with open("/dev/full", "w") as full:
        # With this variable, every print fails by itself.
        buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        failed = subprocess.run(program, stdout=full, stderr=subprocess.PIPE, timeout=60, env=buffered)
    assert failed.returncode == 120

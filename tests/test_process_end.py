"""The process of a command ends at once, but with everything that belongs to its end."""

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

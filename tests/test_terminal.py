"""Terminal output: bars on a terminal only, no unwanted colours, JSON that equals the artifact, and completion."""

import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
from fcntl import ioctl
from pathlib import Path

import pytest

from interp.runtime import progress
from interp.views.overview import Overview
from interp.views.table import Table
from interp.views.terminal.screen import show_screen

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
SMALL = ["--limit", "40", "--layers", "4", "--device", "cpu"]


def clean_environment(**changes):
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "TERM")}
    return kept | {"TERM": "xterm-256color", "OMP_NUM_THREADS": "1"} | changes


def on_terminal(command, columns=100, **changes):
    """Run a command on a terminal of its own, and return its exit code and everything that it printed."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=clean_environment(**changes), close_fds=True
    )
    os.close(theirs)
    seen = b""
    while select.select([ours], [], [], 120)[0]:
        try:
            part = os.read(ours, 65536)
        except OSError:
            break
        if not part:
            break
        seen += part
    os.close(ours)
    return process.wait(timeout=60), seen.decode()


def interp(*arguments):
    return [sys.executable, "-m", "interp", *map(str, arguments)]


def piped(command, **changes):
    return subprocess.run(command, capture_output=True, text=True, env=clean_environment(**changes), timeout=180)


STAGES = (
    "loading the model",
    "images",
    "margins and residuals",
    "gradients",
    "screening features",
    "layer patches",
    "patching features",
)


def test_every_stage_has_a_bar_on_a_terminal(tmp_path):
    arguments = ["find-features", "--limit", 200, "--layers", "4-5", "--device", "cpu", "--out", tmp_path / "run"]
    code, seen = on_terminal(interp(*arguments))
    # So few questions show no growth from layer 4 to layer 5.
    assert code == 3, seen
    for stage in STAGES:
        assert stage in seen
    # Items done of all items, time elapsed and left, and the rate.
    assert re.search(r"images +\S*━\S* .*3/3.*0:00:0\d", COLOUR.sub("", seen)), seen
    assert re.search(r"\d/s", COLOUR.sub("", seen)), seen
    assert COLOUR.search(seen)


def test_a_pipe_gets_no_bar_and_stdout_is_the_file(tmp_path):
    done = piped(interp("find-features", *SMALL, "--out", tmp_path / "run", "--json"))
    assert done.returncode == 3
    assert done.stderr == ""
    assert done.stdout == (tmp_path / "run" / "layers.json").read_text()


@pytest.mark.parametrize("changes", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["NO_COLOR", "dumb"])
def test_no_colour_if_unwanted(tmp_path, changes):
    code, seen = on_terminal(interp("find-features", *SMALL, "--out", tmp_path / "run", "-v"), **changes)
    assert code == 3
    assert "too few flips" in seen
    assert not COLOUR.search(seen), seen
    # A bar moves the cursor; a dumb terminal would print the control sequence.
    assert ("━" in seen or "-----" in seen) == ("NO_COLOR" in changes)
    if "TERM" in changes:
        assert "\x1b" not in seen
    for asked in (["--help"], ["find-features", "--help"], ["find-features", "--rule", "none"]):
        _, seen = on_terminal(interp(*asked), **changes)
        assert "\x1b" not in seen, seen


def test_verbose_logs_what_is_done_but_no_path(tmp_path, own_data):
    given = ["--questions", own_data / "questions.jsonl", "--split", "all", "--device", "cpu"]
    done = piped(interp("test-feature", "4:110", *given, "--verbose", "--json"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["feature"] == 110
    for line in (
        r"questions\.jsonl: 12 questions of \d+ patients \(all split\)",
        r"model planted: 10 layers of width 128, float32 on cpu",
        r"SAE layer_4_width_512_l0_small: 512 features, float32 on cpu",
        r"images: \d+ x 32 in \d+\.\d s \(memory \d+\.\d GiB\)",
    ):
        assert re.search(line, done.stderr), done.stderr
    assert str(own_data) not in done.stderr
    assert all(re.match(r"\d\d:\d\d:\d\d (INFO|WARNING) ", line) for line in done.stderr.splitlines() if line.strip())


def completed(program, words):
    """The completions that a shell offers for the last of some words."""
    module = {"interp": "interp.cli.app", "finetune": "finetune.cli.app"}[program]
    start = [sys.executable, "-c", f"import sys; sys.argv = [{program!r}]; from {module} import main; main()"]
    asked = {f"_{program.upper()}_COMPLETE": "complete_bash", "COMP_WORDS": f"{program} {words}"}
    done = piped(start, **asked, COMP_CWORD=str(len(f"{words}|".split())))
    assert done.stderr == ""
    return done.stdout.split()


def test_a_shell_completes_commands_options_and_their_values():
    assert completed("interp", "fi") == ["find-features", "figures"]
    assert completed("interp", "demo b") == ["build"]
    assert completed("interp", "find-features --rule ") == ["answer", "write", "growth", "near-peak"]
    assert completed("interp", "find-features --max") == ["--max-memory", "--max-layers"]
    # finetune is a command with options of its own and has subcommands.
    assert completed("finetune", "ev") == ["evaluate"]
    assert completed("finetune", "--grounding sw") == ["swap"]
    assert completed("finetune", "evaluate --fail-on ") == ["less-grounded", "not-improved", "worse"]


def commands():
    from typer.main import get_command

    from finetune.cli.app import app as finetune_app
    from interp.cli.app import app as interp_app

    def below(name, command):
        yield name, command
        for word, inner in getattr(command, "commands", {}).items():
            yield from below(f"{name} {word}", inner)

    return [*below("interp", get_command(interp_app)), *below("finetune", get_command(finetune_app))]


@pytest.mark.parametrize(("name", "command"), [pytest.param(*each, id=each[0]) for each in commands()])
def test_help_fits_a_terminal_and_shows_an_example(name, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with command.make_context(name, [], resilient_parsing=True) as context:
        text = command.get_help(context)
    assert all(len(line) <= 80 for line in text.splitlines())
    # A command with subcommands only leaves the examples to them.
    if name not in ("interp", "interp demo"):
        assert re.search(rf"^ {{4,}}{name}( |$)", text, re.MULTILINE), text
        assert {"-v", "--verbose"} <= {flag for option in command.params for flag in option.opts}


def test_work_whose_output_is_redirected_says_how_far_it_is(capsys, monkeypatch):
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(progress, "_said", [20.0])
    assert list(progress.track("abcdef", "prompts", unit=10)) == list("abcdef")
    said = capsys.readouterr().err.splitlines()
    # A step takes 20 s and a line comes after 30 s, but none at the end.
    assert said == ["prompts: 20 of 60, 0.5/s, 00:01:20 left", "prompts: 40 of 60, 0.5/s, 00:00:40 left"]


def test_a_result_that_was_not_written_is_not_said_to_be_in_a_file(capsys):
    shown = Overview("of a model", ["It works."], tables=[])
    show_screen(shown, Table("What decided", [], []))
    assert "nothing was written: --out keeps all numbers" in capsys.readouterr().out
    show_screen(shown, Table("What decided", [], []), [Path("out/evaluation.json")])
    assert "the files hold all numbers" in capsys.readouterr().out

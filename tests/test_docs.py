"""The documentation is true: its links, files, folders, commands and options exist."""

import ast
import json
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
import typer

import interp

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    page
    for folder in (".", ".github", "artifacts", "finetune", "interp", "notebooks", "tests")
    for page in ((ROOT / folder).glob("*.md") if folder == "." else (ROOT / folder).rglob("*.md"))
)
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SCRIPTS = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "notebooks").glob("*.py")]
REMOVED = {"--modules", "--allocation", "--profile"}
"""Options of version 0.1, which one page names as gone."""
EACH_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
EACH_TEXT = pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS], ids=lambda page: str(page.relative_to(ROOT)))
LINK = re.compile(r"\]\(([^)\s]+)\)")
OPTION = re.compile(r"--[a-z][a-z0-9-]+")
FILE = re.compile(r"(?:interp|finetune|tests|notebooks|artifacts/(?:results|choosers)|\.github)/[\w./*-]+|\.ci/run")


def prose(page):
    """The text of a page; of a notebook, that of its markdown cells."""
    if page.suffix == ".md":
        return page.read_text()
    cells = json.loads(page.read_text())["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def anchors(page):
    """The anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ +(.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def code(page):
    """Every code span, and every line of every code block, with continued lines joined."""
    text = prose(page)
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    text = re.sub(r"^```\w*\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"(?:^ {4}\S.*\n?)+", text, re.MULTILINE)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]
    return spans + [line for block in blocks + indented for line in re.sub(r"\\\n", " ", block).splitlines()]


@cache
def programs():
    """The two commands as click knows them."""
    from finetune.cli.app import app as finetune_app
    from interp.cli.app import app as interp_app

    return {"interp": typer.main.get_command(interp_app), "finetune": typer.main.get_command(finetune_app)}


def options_of(command):
    """The options of a command that are not hidden, and those that every command has."""
    shown = [each for each in command.params if not getattr(each, "hidden", False)]
    return {name for each in shown for name in [*each.opts, *each.secondary_opts]} | {"--help", "-h"}


@cache
def all_options():
    """The options of both programs and all their subcommands."""
    waiting, found = list(programs().values()), set()
    while waiting:
        command = waiting.pop()
        found |= options_of(command)
        waiting += getattr(command, "commands", {}).values()
    return found


@cache
def other_options():
    """The options of the scripts among the tests, as far as they stand in their source."""
    strings = (node for path in SCRIPTS for node in ast.walk(ast.parse(path.read_text())))
    return {
        node.value for node in strings if isinstance(node, ast.Constant) and OPTION.fullmatch(str(node.value))
    } | REMOVED


def calls(line):
    """The calls of `interp` and `finetune` in a line of code, each as its words."""
    for part in re.split(r"&&|\||;|…|,? then ", line):
        try:
            words = shlex.split(part.split(" #")[0])
        except ValueError:
            continue
        if "launch" in words and "-m" in words:
            words = words[words.index("-m") + 1 :]
        if words and words[0] in programs():
            yield words


def wrong_in(words):
    """What a call names that does not exist, or None."""
    command, *rest = programs()[words[0]], *words[1:]
    while rest and rest[0] in getattr(command, "commands", {}):
        command = command.commands[rest.pop(0)]
    subcommand_missing = command is programs()["interp"] or command.name == "demo"
    if subcommand_missing and rest and not rest[0].startswith("-"):
        return f"command {rest[0]}"
    options = {option for word in rest for option in OPTION.findall(word.split("=")[0]) if word.startswith("-")}
    unknown = options - options_of(command)
    return f"option {', '.join(sorted(unknown))}" if unknown else None


@EACH_TEXT
def test_every_relative_link_leads_somewhere(page):
    for target in LINK.findall(prose(page)):
        if re.match(r"https?:|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{target} does not exist"
        assert not anchor or anchor in anchors(there), f"{target}: {there.name} has no such heading"


@EACH_TEXT
def test_every_call_names_a_command_and_its_options(page):
    found = {line: wrong_in(words) for line in code(page) for words in calls(line)}
    assert not {line: wrong for line, wrong in found.items() if wrong}


@EACH_TEXT
def test_every_option_exists_somewhere(page):
    alone = {option for line in code(page) if line.startswith("--") for option in OPTION.findall(line)}
    assert alone <= all_options() | other_options()


@EACH_TEXT
def test_every_file_that_is_named_exists(page):
    named = {name.rstrip(".") for line in code(page) for name in FILE.findall(line)}
    missing = [name for name in named if not (any(ROOT.glob(name)) if "*" in name else (ROOT / name).exists())]
    assert not missing


def test_removed_options_are_gone():
    assert not REMOVED & all_options()


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 220


def test_the_test_command_of_the_readme_is_that_of_ci():
    in_ci = (ROOT / ".ci" / "run").read_text().splitlines()[-1]
    prefix = "python3.11 -m venv .venv && . .venv/bin/activate && "
    assert prefix + in_ci in (ROOT / "README.md").read_text().splitlines()


@pytest.mark.parametrize("package", ["interp", "finetune"])
def test_the_readme_shows_every_folder(package):
    tree = re.search(rf"^{package}/ .*\n((?:  \S+.*\n)+)", (ROOT / "README.md").read_text(), re.MULTILINE).group(1)
    shown = {line.split()[0].rstrip("/") for line in tree.splitlines() if line.split()[0].endswith("/")}
    assert shown == {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}


def test_the_citation_names_the_version():
    assert f"\nversion: {interp.__version__}\n" in (ROOT / "CITATION.cff").read_text()

"""The notebooks run on the embedded world and reproduce their committed outputs."""

import re
import sys
from html import unescape
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
sys.path.insert(0, str(FOLDER))

from execute import NOTEBOOKS, executed  # noqa: E402

NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d*\.\d+|\d+)(?![\w])")
MEGABYTE = 2**20


def said(notebook):
    """Return the cells' outputs as (cell, kind, text), without HTML tags; the text of a figure is empty."""
    found = []
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                found.append((number, output.name, output.text))
            for kind, content in sorted(output.get("data", {}).items()):
                text = "" if kind.startswith("image/") else unescape(re.sub(r"<[^>]*>", " ", content))
                found.append((number, kind, text))
    return found


def same(fresh, kept):
    """Whether two texts differ at most by two units in the last decimal of a number, as they do between processors."""
    if NUMBER.sub("#", fresh) != NUMBER.sub("#", kept):
        return False
    couples = zip(NUMBER.findall(fresh), NUMBER.findall(kept), strict=True)
    return all(abs(float(a) - float(b)) <= 2.01 * 10.0 ** -len(b.partition(".")[2]) * ("." in b) for a, b in couples)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_reproduces_its_committed_outputs(path):
    fresh, kept = said(executed(path)), said(nbformat.read(path, as_version=4))
    again = f"python notebooks/execute.py {path.relative_to(FOLDER.parent)}"
    assert [each[:2] for each in fresh] == [each[:2] for each in kept], f"run {again}"
    for (number, kind, text), (_, _, before) in zip(fresh, kept, strict=True):
        assert same(text, before), f"cell {number}, {kind}: {text}\nbut committed is\n{before}\nrun {again}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_contain_no_warning_path_or_time(path):
    notebook = nbformat.read(path, as_version=4)
    assert len(said(notebook)) >= 5
    for number, kind, text in said(notebook):
        assert kind != "stderr", f"cell {number}: {text}"
        assert not re.search(r"(?<![\w<])/(tmp|home|root|work|usr|Users)/|[A-Z]:\\", text), f"cell {number}: {text}"
        assert not re.search(r"\b\d\d:\d\d:\d\d\b|Warning", text), f"cell {number}: {text}"
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1)), "cells were not run from top to bottom"
    assert set(notebook.metadata) == {"kernelspec", "language_info"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_only_the_first_cell_names_the_model(path):
    first, *others = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert 'MODEL = interp.WORLD / "planted"  # "google/medgemma-4b-it"' in first
    assert not any("WORLD" in source for source in others)


def test_the_notebooks_are_small():
    assert [path.name[0] for path in NOTEBOOKS] == ["1", "2", "3", "4"]
    assert sum(path.stat().st_size for path in FOLDER.iterdir() if path.is_file()) < 2 * MEGABYTE


@pytest.mark.parametrize(
    ("fresh", "kept", "alike"),
    [
        ("flips .16 [.12, .19]", "flips .16 [.12, .19]", True),
        ("flips .16", "flips .18", True),
        ("flips .16", "flips .19", False),
        ("layers 4-5", "layers 4-6", False),
        ("74 flips", "75 flips", False),
        ("p < .001", "p = .001", False),
        ("-0.00", "0.00", True),
        ("6:156", "6:157", False),
    ],
)
def test_which_texts_count_as_the_same(fresh, kept, alike):
    assert same(fresh, kept) == alike

"""The notebooks run on the embedded world as they are committed, and on a user's own data with one cell changed.

The second is done in this process, with a tiny untrained model, so that each can be tried on several data sets.
"""

import json
import re
import sys
from html import unescape
from pathlib import Path

import nbformat
import pytest
import torch
from finetune_world import make_world
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from matplotlib import pyplot
from traitlets.config import Config

from interp.saes.sae import Sae, save_sae

FOLDER = Path(__file__).parents[1] / "notebooks"
sys.path.insert(0, str(FOLDER))

from execute import NOTEBOOKS, executed  # noqa: E402

NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d*\.\d+|\d+)(?![\w])")
MEGABYTE = 2**20
MOST_ROWS = 12
"""Most rows of a table that a cell may show."""


def outputs(notebook):
    """The cells' outputs as (cell, kind, content)."""
    found = []
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                found.append((number, output.name, output.text))
            found += [(number, kind, content) for kind, content in sorted(output.get("data", {}).items())]
    return found


def said(notebook):
    """The cells' outputs as (cell, kind, text), without HTML tags; the text of a figure is empty."""
    return [
        (number, kind, "" if kind.startswith("image/") else unescape(re.sub(r"<[^>]*>", " ", content)))
        for number, kind, content in outputs(notebook)
    ]


def same(fresh, kept):
    """Whether two texts differ at most by two units in the last decimal of a number, as they do between processors."""
    if NUMBER.sub("#", fresh) != NUMBER.sub("#", kept):
        return False
    couples = zip(NUMBER.findall(fresh), NUMBER.findall(kept), strict=True)
    return all(abs(float(a) - float(b)) <= 2.01 * 10.0 ** -len(b.partition(".")[2]) * ("." in b) for a, b in couples)


@pytest.mark.slow
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


def code_of(path):
    """The sources of the code cells."""
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS[1:], ids=lambda path: path.stem)
def test_only_the_first_cell_names_the_model(path):
    first, *others = code_of(path)
    assert 'MODEL = interp.WORLD / "planted"  # "google/medgemma-4b-it"' in first
    assert not any("WORLD" in source for source in others)


def test_no_cell_of_the_third_notebook_shows_more_than_ten_rows_or_so():
    notebook = nbformat.read(FOLDER / "3_train_and_look.ipynb", as_version=4)
    shown = [content for _, kind, content in outputs(notebook) if kind == "text/html"]
    tables = [table.count("<tr") - 1 for content in shown for table in content.split("<table")[1:]]
    assert tables
    assert max(tables) <= MOST_ROWS


def test_the_notebooks_are_small():
    assert [path.name[0] for path in NOTEBOOKS] == ["0", "1", "2", "3", "4"]
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


OWN = """
MODEL, SAES = "{model}", "{saes}"
QUESTIONS = "{questions}"
IMAGES, OUT, INSTALL, LOAD_IN = None, "{out}", None, None
LAYERS, LAYER, FEATURE = "1-2", 1, 3
LIMIT = SEARCHED = TRAINED = None
"""
"""The one cell that a user changes."""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A user's folder: an untrained model, SAEs, images of noise, and questions with boxes and registers."""
    folder = tmp_path_factory.mktemp("own")
    world = make_world(folder, patients=12)
    generator = torch.Generator().manual_seed(0)
    for layer in range(3):
        w_enc, w_dec = (torch.randn(shape, generator=generator) for shape in ((32, 64), (64, 32)))
        sae = Sae(layer, "", w_enc / 4, torch.randn(64, generator=generator), w_dec, torch.zeros(32), torch.zeros(64))
        save_sae(sae, folder / "saes" / f"layer_{layer}_width_64_l0_small", "tiny", torch.float32)
    rows = [json.loads(line) for line in world.questions.read_text().splitlines()]
    for row in rows:
        row["register"] = "formal"
        row["boxes"] = [[4, 4, 20, 24]]
        for place, paraphrase in enumerate(row["paraphrases"]):
            paraphrase["register"] = ("casual", "formal")[place % 2]
    return folder, rows


def without(rows, field):
    return [{name: value for name, value in row.items() if name != field} for row in rows]


def repeated(rows):
    """The other wording of a question is the question with another last character, at which no answer flips."""
    return [row | {"paraphrases": [{"text": row["question"].rstrip("?") + "."}]} for row in rows]


KINDS = {
    "own": (lambda rows: rows, {}),
    "nothing flips": (
        repeated,
        {
            "1": "0 of the first 12 questions get both answers",
            "2": "no pair flips",
            "3": "",
            "4": "Nothing was compared",
        },
    ),
    "no boxes": (lambda rows: without(rows, "boxes"), {"3": "Where the model looks is not scored"}),
    "no answers": (
        lambda rows: without(rows, "answer"),
        {"1": "accuracy is unknown", "2": "", "3": "Nothing was trained", "4": "Nothing was compared"},
    ),
}
"""Kind of data -> how it is made, and number of a notebook -> words that it must say; own data are tried on all."""
CASES = [
    (kind, path) for kind, (_, says) in KINDS.items() for path in NOTEBOOKS if kind == "own" or path.name[0] in says
]


@pytest.mark.parametrize(("kind", "path"), CASES, ids=lambda value: value if isinstance(value, str) else value.stem)
def test_a_notebook_runs_on_own_data_with_one_cell_changed(kind, path, own, tmp_path):
    folder, rows = own
    change, says = KINDS[kind]
    questions = folder / f"{kind}.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in change(rows)))
    first, *others = code_of(path)
    imports = "\n".join(line for line in first.splitlines() if line.startswith(("import ", "from ")))
    config = imports + OWN.format(
        model=folder / "model", saes=folder / "saes", questions=questions, out=tmp_path / "out"
    )
    text = run_here([config, *others])
    assert says.get(path.name[0], "") in text
    assert "InputError" not in text


def run_here(cells):
    """Run cells in a shell of this process, and return what they print and show as text."""
    shell, text = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}})), []
    pyplot.switch_backend("agg")
    for source in cells:
        with capture_output() as got:
            ran = shell.run_cell(source)
        text += [got.stdout, *(str(output) for output in got.outputs)]
        ran.raise_error()
        pyplot.close("all")
    return "\n".join(text)

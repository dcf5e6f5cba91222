"""Every command, audited, on the world of canaries: what it does to the machine, and what it reveals of the questions.

Some commands contain a mistake, to test the messages.
"""

import base64
import json
import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from canaries import CANARY, Runs, run_all
from PIL import Image
from typer.testing import CliRunner

from interp.cli.app import app
from interp.sharing.file_contents import contents_of
from interp.sharing.scrub import scrub

OWN = ("imported.jsonl", "again.jsonl", "more.jsonl")
"""Files of questions, which the commands were asked to write."""
CODES = {"find": 3, "scrub": 4, "scrub own": 4}
"""Command -> its exit code, for those without a mistake whose code is not 0."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    return run_all(tmp_path_factory.mktemp("canaries"))


def test_every_command_ends_with_its_exit_code(runs):
    for name, ran in runs.ran.items():
        assert ran.code == (2 if name.startswith("bad") else CODES.get(name, 0)), (name, ran.code, ran.errors)
    assert {path.suffix for path in runs.out.rglob("*.*")} >= {".json", ".parquet", ".csv", ".png", ".html", ".md"}


def test_no_command_uses_network_programs_pickles_or_other_folders(runs):
    assert {name: sorted(set(ran.noted)) for name, ran in runs.ran.items() if ran.noted} == {}


def test_output_and_errors_reveal_nothing_of_the_questions(runs):
    for name, ran in runs.ran.items():
        # This command lists the files of the folder that it was given.
        told = ran.out.replace("images/" + CANARY, "") if name == "scrub own" else ran.out
        assert CANARY not in (told + ran.errors).lower(), name
        assert "secret" not in ran.out + ran.errors, name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bad twice", "row 2: its id is already used in row 1"),
        ("bad answer", "row 1: its answer is not among"),
        ("bad absent", "row 1: its image is not in"),
        ("bad split", "row 2: its patient is in both splits"),
        ("bad unreadable", "names their rows"),
        ("bad dicom", "names their rows"),
        ("bad damaged", "row 1: not a JSON object"),
    ],
)
def test_an_error_names_the_row_instead_of_its_content(runs, name, expected):
    assert expected in runs.ran[name].errors


def decoded(path: Path) -> str:
    """Return everything that a file contains, read by other means than `interp.sharing.file_contents`."""
    content = path.read_bytes()
    said = content.decode("latin-1")
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        said += repr(table.to_pylist()) + repr(table.schema.metadata)
    if path.suffix == ".png":
        said += repr(Image.open(path).info)
    for encoded in re.findall(r"base64,([A-Za-z0-9+/=\s]+)", said):
        said += base64.b64decode(encoded).decode("latin-1")
    return said.lower()


def test_no_file_reveals_the_questions(runs):
    files = [path for path in runs.out.rglob("*") if path.is_file()]
    assert len(files) > 30
    told = [path.relative_to(runs.out) for path in files if CANARY in decoded(path) + path.name]
    assert sorted(path.name for path in told) == sorted(OWN)


def test_the_report_of_an_import_has_rows_and_counts(runs):
    report = json.loads((runs.out / "own" / "imported.jsonl.report.json").read_text())
    assert report["questions"] == 2
    assert report["dropped_rows"].values()
    assert all(
        re.fullmatch(r"published\.json, row \d", row) for rows in report["dropped_rows"].values() for row in rows
    )
    said = "1 names in the split column are none of train, validation and test; split by patient instead"
    assert said in report["notes"]


def test_scrub_finds_exactly_what_a_run_contains(runs):
    found, files, _ = scrub(runs.out / "run", [runs.world / "questions.jsonl"])
    assert files > 20
    kinds = {(finding.file, finding.what.split(";")[0].split(",")[0]) for finding in found}
    # The base is a local folder, and hashed training texts can be guessed.
    assert {(Path(file).name, what) for file, what in kinds} == {
        ("adapter_config.json", "what looks like a path on a machine or to a patient"),
        ("gatescope.json", "hashes of training texts"),
    }


PLANTED = {
    "notes.txt": ("Asked: {text}", "question text (row 1)"),
    "table.csv": ("name,value\n{patient},1\n", "a patient's id (row 1)"),
    "page.html": ("<p>{html}</p>", "question text (row 1)"),
    "book.ipynb": ('{{"cells": [{{"source": ["{text}"]}}]}}', "question text (row 1)"),
    "result.json": ('{{"a": [{{"b": "{image}"}}]}}', "an image's path or name (row 1)"),
    "drawing.svg": ("<svg><text>{id}</text></svg>", "the id of a question (row 1)"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_scrub_finds_planted_content(runs, tmp_path, name):
    row = json.loads((runs.world / "questions.jsonl").read_text().splitlines()[0])
    text, expected = PLANTED[name]
    # Spacing, case and escapes do not hide it.
    said = {"text": row["question"].upper().replace(" ", "  "), "html": row["question"].replace(",", "&#44;")}
    (tmp_path / name).write_text(text.format(**said, patient=row["patient"], image=row["image"], id=row["id"]))
    found, files, _ = scrub(tmp_path, [runs.world / "questions.jsonl"])
    assert files == 1
    assert expected in [finding.what for finding in found]
    assert CANARY not in str(found)
    assert expected not in [finding.what for finding in scrub(tmp_path)[0]]


def test_scrub_recognizes_private_content_without_the_questions(runs, tmp_path):
    shutil.copy(runs.world / "images" / f"{CANARY}-image-0.png", tmp_path / "a.png")
    shutil.copy(next((runs.world / "images").glob("*.dcm")), tmp_path / "b")
    shutil.copy(runs.world / "questions.jsonl", tmp_path / "questions.jsonl")
    table = pq.read_table(next((runs.out / "run" / "ablation").rglob("base.parquet")))
    pq.write_table(table.append_column("patient", [["p1"] * len(table)]), tmp_path / "arms.parquet")
    image = base64.b64encode((tmp_path / "a.png").read_bytes()).decode()
    (tmp_path / "page.html").write_text(f'<img src="data:image/png;base64,{image}">')
    (tmp_path / "list.json").write_text('{"where": "/home/someone/mimic/p10/p10000032/s50414267"}')
    (tmp_path / "weights.bin").write_bytes(b"\x80\x04")
    (tmp_path / "cut.json").write_text('{"a": ')
    (tmp_path / "link").symlink_to(runs.world)
    (tmp_path / "clean.csv").write_text("layer,value\n1,0.5\n")
    found, files, _ = scrub(tmp_path)
    told = {}
    for finding in found:
        told.setdefault(finding.file, []).append(finding.what)
    assert files == 10
    assert told.pop("questions.jsonl")[0] == "text under 'image', 'patient', 'question', 'text'"
    assert told == {
        "a.png": ["an image"],
        "arms.parquet": ["text under 'patient'"],
        "b": ["an image"],
        "cut.json": ["content that cannot be read: an unknown kind of file, or a damaged one"],
        "link": ["a link, or not a regular file"],
        "list.json": ["what looks like a path on a machine or to a patient"],
        "page.html": ["an image"],
        "weights.bin": ["content that cannot be read: an unknown kind of file, or a damaged one"],
    }


def test_examples_count_as_images_but_other_figures_do_not(runs, tmp_path):
    figure = next((runs.out / "run" / "grounding").rglob("*.png"))
    assert contents_of(figure).images == 0
    shutil.copy(figure, tmp_path / "examples.png")
    assert [finding.what for finding in scrub(tmp_path)[0]] == ["radiographs, drawn with --include-examples"]


def test_the_scrub_command(tmp_path):
    (tmp_path / "a.csv").write_text("layer,value\n1,0.5\n")
    clean = CliRunner().invoke(app, ["scrub", str(tmp_path)])
    assert (clean.exit_code, "none of 1 files" in clean.output) == (0, True)
    (tmp_path / "a.csv").write_text("layer,question\n1,is it?\n")
    dirty = CliRunner().invoke(app, ["scrub", str(tmp_path)])
    assert (dirty.exit_code, "1 of 1 files" in dirty.output, "'question'" in dirty.output) == (4, True, True)

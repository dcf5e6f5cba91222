"""Fuzzing the readers of questions: our format and those of data sets, prompts, register grids, and typed options."""

import csv
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuzzing import CHANGES, CUTS, HOSTILE_TEXT, LENGTHS, as_json, bounded_memory, changed, check, cut, fuzzed
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from finetune.cli.ablate import parse_seeds
from finetune.grounding.settings import map_settings
from interp.feature.register_grid import read_grid
from interp.importing.importer import import_questions
from interp.measurement.clamp_spec import parse_clamps
from interp.questions.files import load_questions, write_questions
from interp.questions.tables import prompt_table
from interp.runtime.errors import InputError
from interp.saes.feature_id import parse_feature
from interp.schemas.layer_list import listed_layers, parse_layers
from interp.screening.transfer import text_prompts

OURS = [
    {
        "id": f"q{i}",
        "image": f"a/{i % 2}.png",
        "patient": f"p{i % 2}",
        "type": type_,
        "question": "Is there an effusion?",
        "answer": answer,
        "register": "formal",
        "boxes": [[1, 2, 3.5, 4]],
        "paraphrases": [{"text": "Any fluid?", "phenomenon": "lexical_substitution", "register": "casual"}],
    }
    for i, (type_, answer) in enumerate([("presence", "yes"), ("view", "PA view"), ("level", "mild")])
]
PSF_NESTED = [
    {
        "question_id": i,
        "question": "Is there an effusion?",
        "filename": f"a/{i % 2}.png",
        "is_yesno": True,
        "paraphrases": [{"text": "Any fluid?", "phenomenon": "lexical_substitution", "is_yesno": True}, "Fluid?"],
    }
    for i in range(3)
]
PSF_LONG = [
    {"id": i // 2, "original_question": "Effusion?", "paraphrase": f"Fluid {i}?", "image_id": "b", "answer": "yes"}
    for i in range(4)
]
CHEST = [
    {
        "dicom_id": "0",
        "subject_id": 10000032.0,
        "study_id": 50414267,
        "image_path": "['a/0.png']",
        "question": "is there effusion?",
        "answer": "yes",
        "question_type": "presence",
        "split": split,
        "baseline_question": "is there effusion?",
        "question_variant": "any fluid?",
        "variant_index": 1,
        "strategy": "baseline",
    }
    for split in ("train", "train")
]
VQA_RAD = [
    {
        "qid": i,
        "qid_linked_id": "03f",
        "phrase_type": "freeform" if i else "para",
        "image_name": "a/0.png",
        "question": f"Is there {i}?",
        "question_rephrase": "NULL",
        "answer": "Yes",
        "answer_type": "CLOSED",
        "question_type": "PRES, POS",
    }
    for i in range(3)
]
SOURCES = {
    "psf-med nested": ("psf-med", PSF_NESTED),
    "psf-med long": ("psf-med", PSF_LONG),
    "medical-cxr-vqa": ("medical-cxr-vqa", CHEST),
    "hard-positives": ("hard-positives", CHEST),
    "vqa-rad": ("vqa-rad", VQA_RAD),
    "jsonl": ("jsonl", OURS),
}
TABLE_KINDS = ["csv", "tsv", "json", "jsonl", "parquet"]


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    (folder / "a").mkdir()
    for name in ("b.png", "a/0.png", "a/1.png"):
        Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(folder / name)
    return folder


@pytest.fixture(autouse=True)
def _bounded():
    with bounded_memory():
        yield


def table_bytes(rows: Any, kind: str) -> bytes:
    """Return rows as a file of a kind, or as JSON if they do not form a table."""
    flat = isinstance(rows, list) and all(isinstance(row, dict) for row in rows)
    if kind == "jsonl" and isinstance(rows, list):
        return b"\n".join(map(as_json, rows))
    if kind == "parquet" and flat:
        try:
            sink = io.BytesIO()
            pq.write_table(pa.Table.from_pylist(rows), sink)
            return sink.getvalue()
        except (pa.ArrowException, UnicodeEncodeError, OverflowError):
            return as_json(rows)
    if kind in ("csv", "tsv") and flat:
        text = io.StringIO()
        writer = csv.DictWriter(
            text, list(dict.fromkeys(n for row in rows for n in row)), delimiter="\t" if kind == "tsv" else ","
        )
        writer.writeheader()
        writer.writerows(
            {n: json.dumps(v) if isinstance(v, list | dict) else v for n, v in row.items()} for row in rows
        )
        return text.getvalue().encode(errors="surrogatepass")
    return as_json(rows)


class Import(NamedTuple):
    format: str
    kind: str
    content: bytes


def run_import(name: str, wanted: Import, images: Path, folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    source, out = folder / f"source.{wanted.kind}", folder / "out.jsonl"
    source.write_bytes(wanted.content)
    found = check(name, lambda: import_questions(source, wanted.format, images, out))
    written = sorted(path.name for path in folder.iterdir())
    if isinstance(found, InputError):
        assert written == [source.name], "an error left files"
        return
    assert written == ["out.jsonl", "out.jsonl.report.json", source.name]
    # Every command can read what an import writes.
    again = load_questions(out, images)
    assert len(again) == found.questions
    assert json.loads((folder / "out.jsonl.report.json").read_text())["questions"] == found.questions


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("source", SOURCES)
def test_data_sets_with_changes(source, length, images, tmp_path):
    format, rows = SOURCES[source]

    @fuzzed(length, 50, 2500)
    @given(CHANGES, st.sampled_from(TABLE_KINDS))
    def run(changes, kind):
        content = table_bytes(changed(rows, changes), kind)
        run_import(f"{source}, changed", Import(format, kind, content), images, tmp_path)

    run()


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("source", SOURCES)
def test_data_sets_with_damaged_bytes(source, length, images, tmp_path):
    format, rows = SOURCES[source]
    content = {kind: table_bytes(rows, kind) for kind in TABLE_KINDS}

    @fuzzed(length, 50, 2500)
    @given(CUTS, st.sampled_from(TABLE_KINDS))
    def run(cuts, kind):
        run_import(f"{source}, damaged", Import(format, kind, cut(content[kind], cuts)), images, tmp_path)

    run()


CARD = {"configs": [{"config_name": "mimic", "data_files": [{"split": "test", "path": "mimic/*.csv"}]}]}


@pytest.mark.parametrize("length", LENGTHS)
def test_data_set_cards(length, images, tmp_path):
    folder = tmp_path / "psf"
    (folder / "mimic").mkdir(parents=True)
    (folder / "mimic" / "test.csv").write_bytes(table_bytes(PSF_LONG, "csv"))

    @fuzzed(length, 40, 2000)
    @given(CHANGES, CUTS, st.booleans())
    def run(changes, cuts, whole):
        card = b"---\n" + as_json(changed(CARD, changes)) + b"\n---\ntext\n"
        (folder / "README.md").write_bytes(card if whole else cut(card, cuts))
        found = check("psf-med card", lambda: import_questions(folder, "psf-med", images, tmp_path / "out", "mimic"))
        assert isinstance(found, InputError) or found.questions == 2
        for path in tmp_path.glob("out*"):
            path.unlink()

    run()


@pytest.mark.parametrize("length", LENGTHS)
def test_questions(length, images, tmp_path):
    path = tmp_path / "questions.jsonl"

    @fuzzed(length, 120, 6000)
    @given(CHANGES, CUTS, st.booleans())
    def run(changes, cuts, whole):
        content = table_bytes(changed(OURS, changes) if whole else OURS, "jsonl")
        path.write_bytes(content if whole else cut(content, cuts))
        found = check("questions", lambda: load_questions(path, images))
        if not isinstance(found, InputError):
            prompts = prompt_table(found)
            assert prompts["image"].map(lambda image: Path(image).is_file()).all()
            assert np.isfinite([value for q in found for box in q.boxes for value in box]).all()
            write_questions(found, tmp_path / "again.jsonl", images)
            assert load_questions(tmp_path / "again.jsonl", images) == found

    run()


@pytest.mark.parametrize("length", LENGTHS)
def test_prompt_files(length, tmp_path):
    path = tmp_path / "prompts.txt"

    @fuzzed(length, 60, 4000)
    @given(CUTS)
    def run(cuts):
        path.write_bytes(cut("Is there effusion?\nAny fluid, café?\n".encode(), cuts))
        found = check("prompts", lambda: text_prompts(path, 100))
        assert isinstance(found, InputError) or len(found) >= 2

    run()


@pytest.mark.parametrize("length", LENGTHS)
def test_register_grids(length, tmp_path):
    path = tmp_path / "grid.csv"
    content = b'level,frame\n0,"Is there radiographic evidence of {x}, please?"\n2,Is there {x}?\n4,any {x}?\n'

    @fuzzed(length, 60, 5000)
    @given(CUTS)
    def run(cuts):
        path.write_bytes(cut(content, cuts))
        found = check("register grid", lambda: read_grid(path))
        assert isinstance(found, InputError) or (found["level"].between(0, 4).all() and found["level"].nunique() > 1)

    run()


TYPED = st.one_of(
    st.sampled_from([*HOSTILE_TEXT, "all", "0-1000000000", "4-5,4", "1-", "٣-٤", "17:3818=mean", "1:2=1e999"]),
    st.text(alphabet="0123456789-,:= .emanl", max_size=12),
    st.text(max_size=12),
)


@pytest.mark.parametrize("length", LENGTHS)
def test_typed_options(length):
    @fuzzed(length, 150, 4000)
    @given(TYPED)
    def run(text):
        layers = check("--layers", lambda: listed_layers(text))
        assert layers is None or isinstance(layers, InputError) or (layers and layers == sorted(set(layers)))
        chosen = check("--layers of a model", lambda: parse_layers(text, range(10), 10))
        assert isinstance(chosen, InputError) or set(chosen) <= set(range(10))
        clamps = check("--clamp", lambda: parse_clamps(text))
        assert isinstance(clamps, InputError) or all(not np.isinf(spec.value) for spec in clamps)
        check("--feature", lambda: parse_feature(text))
        check("--seeds", lambda: parse_seeds(text))
        check("--maps, --layers, --heads", lambda: map_settings(text, "grey", text, text))

    run()

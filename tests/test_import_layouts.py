"""Tables as data sets and programs really write them, against what pandas, numpy, datasets and PIL wrote into them."""

import base64
import io
import json
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from transformers.image_utils import load_image

from interp.images.decode import decode
from interp.importing.cells import (
    NO_TEXT,
    UNREADABLE,
    EmbeddedImage,
    SeveralImages,
    answer_in,
    image_in,
    listed_in,
    text_of,
    wordings_in,
)
from interp.importing.importer import import_questions
from interp.importing.vqa_rad import OTHER_MEANING
from interp.questions.files import load_questions
from interp.runtime.errors import InputError

WORDINGS = ['Does it\'s "x" show?', "Any\nline?", "it's there?", "a, b]?", "ünïcode?"]


def png(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (24, 20), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def images(tmp_path) -> Path:
    folder = tmp_path / "images"
    (folder / "a").mkdir(parents=True)
    for i in range(4):
        (folder / "a" / f"{i}.png").write_bytes(png(i))
    return folder


def rows_of(**columns) -> list[dict]:
    """Three questions on three images, with columns changed."""
    rows = [
        {"question": question, "image": f"a/{i}.png", "answer": answer, "paraphrases": [f"So, {question}"]}
        for i, (question, answer) in enumerate(
            [("Is there edema?", "yes"), ("Is there effusion?", "no"), ("Is there a mass?", "yes")]
        )
    ]
    return [row | {name: values[i] for name, values in columns.items()} for i, row in enumerate(rows)]


def imported(source, images, tmp_path, format="psf-med", name="out"):
    out = tmp_path / f"{name}.jsonl"
    report = import_questions(source, format, images, out)
    questions = load_questions(out, images)
    assert len(questions) == report.questions
    return questions, report


@pytest.mark.parametrize(
    "written",
    [
        str(np.array(WORDINGS, dtype=object)),
        repr(np.array(WORDINGS, dtype=object)),
        repr(np.array(WORDINGS)),
        str(list(np.array(WORDINGS))),
        str([np.array(WORDINGS, dtype=object)]),
        str(WORDINGS),
        str(tuple(WORDINGS)),
        json.dumps(WORDINGS),
        WORDINGS,
    ],
)
def test_lists_are_read_however_they_are_written(written):
    assert wordings_in(written) == WORDINGS


def test_numpy_wraps_long_lists_over_lines():
    long = [f"{i} {'w' * 60}?" for i in range(5)]
    written = str(np.array(long, dtype=object))
    assert written.count("\n") == 4
    assert wordings_in(written) == long


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("Any fluid?", ["Any fluid?"]),
        ("Any fluid?|Is fluid seen", ["Any fluid?", "Is fluid seen"]),
        ("Any fluid?; Is fluid seen?", ["Any fluid?", "Is fluid seen?"]),
        ("1. Any fluid?\n2. Is fluid seen?", ["Any fluid?", "Is fluid seen?"]),
        ("{'text': 'Any fluid?'}", [{"text": "Any fluid?"}]),
        ("Is there fluid; and if so, where?", ["Is there fluid; and if so, where?"]),
        ("[CXR] Is there fluid?", ["[CXR] Is there fluid?"]),
        ("['Any fluid?']", ["Any fluid?"]),
        ("[]", []),
        (None, []),
        ("none", []),
        (str(np.array([{"text": "a", "p": None}, {"text": "b"}])), [{"text": "a", "p": None}, {"text": "b"}]),
    ],
)
def test_wordings_in_a_cell(written, found):
    assert wordings_in(written) == found


@pytest.mark.parametrize(
    "written", ["['a' 'b", "['a' 'b' ... 'c']", "['a', __import__('os')]", "['a' if 1]", '[\\Any?\\"]"']
)
def test_a_list_that_is_cut_off_is_not_taken_for_a_wording(written):
    assert wordings_in(written) is UNREADABLE


def test_deep_nesting_is_no_list():
    assert listed_in("[" * 5000 + "]" * 5000) is None


@pytest.mark.parametrize(
    ("cell", "answer"),
    [
        (np.int64(1), "1"),
        (np.float32(0), "0"),
        (np.bool_(True), "true"),
        (True, "true"),
        (["yes"], "yes"),
        (np.array(["no"]), "no"),
        ("['yes']", "yes"),
        ("['edema' 'effusion']", "edema, effusion"),
        ("none", "none"),
        ("null", "null"),
        ("NA", "NA"),
        (None, None),
        ([], None),
        (float("nan"), None),
        (b"yes", "yes"),
        ({"text": "Yes", "confidence": 0.4}, "Yes"),
        ("{'answer': ['no']}", "no"),
        ([{"answer": "yes", "answer_confidence": "maybe"}] * 3, "yes"),
        ({"text": ["edema"], "answer_start": [4]}, "edema"),
        ({"box": 1}, NO_TEXT),
        ([{"box": 1}], NO_TEXT),
    ],
)
def test_answers_in_cells(cell, answer):
    assert answer_in(cell) == answer


def test_a_csv_that_pandas_made_of_a_parquet_file(images, tmp_path):
    table = pd.DataFrame(rows_of(paraphrases=[["Any edema?", "Is edema seen?"], ["Any fluid?"], []]))
    table.to_parquet(tmp_path / "q.parquet")
    pd.read_parquet(tmp_path / "q.parquet").to_csv(tmp_path / "q.csv", index=False)
    assert "['Any edema?' 'Is edema seen?']" in (tmp_path / "q.csv").read_text()
    questions, report = imported(tmp_path / "q.csv", images, tmp_path)
    assert [[p.text for p in q.paraphrases] for q in questions] == [
        ["Any edema?", "Is edema seen?"],
        ["Any fluid?"],
        [],
    ]
    assert report.dropped_paraphrases == {}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"text": "a"}, None),
        (["a", "b"], None),
        (b"Any fluid?", "Any fluid?"),
        ("<image>\nAny fluid?", "Any fluid?"),
        ("Any fluid?<start_of_image>", "Any fluid?"),
        (10000032.0, "10000032"),
        ("10000032.0", "10000032"),
        ("0.50", "0.50"),
    ],
)
def test_the_text_of_a_cell(value, text):
    assert text_of(value) == text


@pytest.mark.parametrize("format", ["psf-med", "medical-cxr-vqa", "vqa-rad"])
def test_wordings_may_be_objects_in_every_format(images, tmp_path, format):
    name = {"psf-med": "paraphrases", "medical-cxr-vqa": "question_variant", "vqa-rad": "question_rephrase"}[format]
    row = {"question": "Is there edema?", "image": "a/0.png", "answer": "yes", "baseline_question": "Is there edema?"}
    wordings = [{"text": "Any edema?", "tone": "casual"}, {"paraphrase": "Is edema seen?"}, {"other": "a"}]
    [question], _ = imported([row | {name: wordings}], images, tmp_path, format)
    assert [p.text for p in question.paraphrases] == ["Any edema?", "Is edema seen?"]


def test_a_list_that_numpy_shortened_is_counted(images, tmp_path):
    cells = ["['Any edema?' ... 'Edema?']", "Any fluid?|Is fluid seen?", "Any mass?"]
    pd.DataFrame(rows_of(paraphrases=cells)).to_csv(tmp_path / "q.csv", index=False)
    questions, report = imported(tmp_path / "q.csv", images, tmp_path)
    assert [[p.text for p in q.paraphrases] for q in questions] == [[], ["Any fluid?", "Is fluid seen?"], ["Any mass?"]]
    assert report.dropped_paraphrases == {"list of paraphrases that is cut off or damaged": 1}


# Answers of three questions -> the answers that are meant, of which the second is a no.
ANSWERS = {
    "numbers": ([1, 0, 1], ["yes", "no", "yes"]),
    "floats": ([1.0, 0.0, None], ["yes", "no", None]),
    "truths": ([True, False, True], ["yes", "no", "yes"]),
    "written truths": (["True", "False", "T"], ["yes", "no", "yes"]),
    "lists": ([["yes"], ["no"], ["Yes"]], ["yes", "no", "yes"]),
    "sentences": (["Yes, a small one", "No evidence of effusion.", "Yes."], ["yes", "no", "yes"]),
    "findings": (["present", "none", "positive"], ["yes", "no", "yes"]),
    "denials": (["There is edema", "No effusion", "Not seen"], ["there is edema", "no", "no"]),
    "others": (["maybe", "null", "John Doe"], ["maybe", "null", "john doe"]),
}


KINDS = ("jsonl", "frame", "dataset", "csv", "json", "parquet")
LAYOUTS = [(format, kind) for format in ("psf-med", "medical-cxr-vqa", "vqa-rad") for kind in KINDS]
LAYOUTS += [("jsonl", kind) for kind in KINDS[:3]]


@pytest.mark.parametrize(("format", "kind"), LAYOUTS)
@pytest.mark.parametrize("answers", ANSWERS)
def test_answers_mean_the_same_in_every_format_and_kind_of_table(images, tmp_path, format, answers, kind):
    written, meant = ANSWERS[answers]
    rows = rows_of(answer=written)
    for i, row in enumerate(rows):
        del row["paraphrases"]
        row |= {"id": str(i), "type": "other"} if format == "jsonl" else {"type": "unknown"}
        row |= {"paraphrase": f"So, {row['question']}"} if format == "psf-med" else {}
    table, source = pd.DataFrame(rows), tmp_path / f"q.{kind}"
    if kind == "csv":
        table.to_csv(source, index=False)
    elif kind == "parquet":
        table.to_parquet(source)
    elif kind in ("json", "jsonl"):
        source.write_text(json.dumps(rows) if kind == "json" else "".join(json.dumps(row) + "\n" for row in rows))
    else:
        source = table if kind == "frame" else datasets.Dataset.from_pandas(table)
    questions, report = imported(source, images, tmp_path, format)
    if format == "vqa-rad":
        meant = [answer for answer in meant if answer is not None]
    assert [q.true_answer for q in questions] == meant
    assert [q.closed for q in questions] == [answer in ("yes", "no", None) for answer in meant]
    assert report.closed == sum(q.closed for q in questions)
    assert report.closed_answers == {name: meant.count(name) for name in ("yes", "no") if name in meant}
    if answers == "others":
        assert report.other_answers == {"maybe": 1, "null": 1, "another answer": 1}
        assert "doe" not in report.model_dump_json().lower()


def test_a_csv_of_a_spreadsheet_may_be_separated_by_semicolons(images, tmp_path):
    pd.DataFrame(rows_of(paraphrases=["Any edema?", "So, is it?", "A mass?"])).to_csv(
        tmp_path / "q.csv", index=False, sep=";", encoding="utf-8-sig"
    )
    questions, _ = imported(tmp_path / "q.csv", images, tmp_path)
    assert [p.text for q in questions for p in q.paraphrases] == ["Any edema?", "So, is it?", "A mass?"]


CSV = "id,image,question,paraphrases,answer,Patient ID\n1,a/0.png,¿Hay edema?,¿Se ve edema?,sí,007\n"


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (CSV.encode("utf-8-sig"), "a.csv"),
        (CSV.replace(",", ";").encode("utf-8-sig"), "a.csv"),
        (("sep=;\n" + CSV.replace(",", ";")).replace("\n", "\r\n").encode(), "a.csv"),
        (CSV.replace(",", "\t").encode(), "a.csv"),
        (CSV.replace(",", "\t").encode("utf-16"), "a.csv"),
        (CSV.replace(",", "\t").encode("utf-16"), "a.tsv"),
        (CSV.replace("Patient ID", "PatientID").encode(), "a.csv"),
    ],
)
def test_what_spreadsheets_save_is_read(images, tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    [question], _ = imported(tmp_path / name, images, tmp_path)
    assert (question.question, question.true_answer, question.patient) == ("¿Hay edema?", "yes", "007")
    assert [p.text for p in question.paraphrases] == ["¿Se ve edema?"]


def test_an_error_quotes_no_cells_of_a_table_without_a_header(images, tmp_path):
    (tmp_path / "a.csv").write_text(CSV.partition("\n")[2] * 2)
    with pytest.raises(InputError, match="Found names that look like cells of a row") as error:
        imported(tmp_path / "a.csv", images, tmp_path)
    assert "edema" not in str(error.value)
    assert "007" not in str(error.value)
    (tmp_path / "b.json").write_text(json.dumps({"Is there edema?": {"p10000032": "yes"}}))
    with pytest.raises(InputError, match="Found names that look like cells") as error:
        imported(tmp_path / "b.json", images, tmp_path)
    assert "edema" not in str(error.value)


def test_ids_that_pandas_wrote_as_floats(tmp_path):
    """A column of whole numbers with gaps becomes one of floats."""
    place = tmp_path / "images/files/p10/p10000032/s50414267/d1.jpg"
    place.parent.mkdir(parents=True)
    place.write_bytes(png(0))
    rows = pd.DataFrame({"dicom_id": ["d1", "d2"], "subject_id": [10000032, None], "study_id": [50414267, None]})
    rows.assign(question="Is there edema?", answer="yes").to_csv(tmp_path / "a.csv")
    [question], report = imported(tmp_path / "a.csv", tmp_path / "images", tmp_path, "medical-cxr-vqa")
    assert question.patient == "10000032"
    assert report.dropped == {"no image": 1}


@pytest.mark.parametrize("name", ["a/0.jpg", "a/0.dcm", "files/a/0.DCM", "a/0", "0.dcm", "a/0.png"])
def test_converted_images_may_have_another_ending(images, tmp_path, name):
    [question], _ = imported([rows_of()[0] | {"image": name}], images, tmp_path)
    assert Path(question.image) == images / "a/0.png"
    (images / "a/0.tif").touch()
    if name == "a/0.png":
        imported([rows_of()[0] | {"image": name}], images, tmp_path, name="b")
    else:
        with pytest.raises(InputError, match="image name matches several files: 1"):
            imported([rows_of()[0] | {"image": name}], images, tmp_path, name="b")


@pytest.mark.parametrize("number", [1, 3])
def test_a_json_file_with_an_object_per_line(images, tmp_path, number):
    """As `to_json` of the `datasets` library writes it by default."""
    datasets.Dataset.from_list(rows_of()[:number]).to_json(tmp_path / "a.json")
    questions, _ = imported(tmp_path / "a.json", images, tmp_path)
    assert len(questions) == number


def test_numbers_as_ids_of_our_own_format(images, tmp_path):
    row = {"id": 7, "image": "a/0.png", "type": "presence", "question": "Is there edema?", "answer": "yes"}
    [question], _ = imported(pd.DataFrame([row]), images, tmp_path, "jsonl")
    assert question.id == "7"


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "I;16", "I", "F", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_pictures_of_every_mode_in_a_table(tmp_path, mode):
    grey = np.random.default_rng(0).integers(0, 256, (24, 32), dtype=np.uint8)
    grey.flat[:2] = 0, 255
    picture = Image.fromarray(grey.astype(np.uint16)) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    expected = grey if mode in ("I;16", "I", "F") else np.asarray(picture.convert("RGB"))[..., 0]
    [question], _ = imported([rows_of()[0] | {"image": picture}], tmp_path, tmp_path)
    assert (np.asarray(decode(Path(question.image)))[..., 0] == expected).all()


@pytest.mark.parametrize("kind", [bytearray, memoryview, Image.open])
def test_a_rotated_photo_in_a_table_is_shown_upright(tmp_path, kind):
    exif = Image.Exif()
    exif[0x112] = 6
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8))
    file = io.BytesIO()
    picture.save(file, "JPEG", exif=exif)
    source = kind(file) if kind is Image.open else kind(file.getvalue())
    [question], _ = imported([rows_of()[0] | {"image": source}], tmp_path, tmp_path)
    (tmp_path / "a.jpg").write_bytes(file.getvalue())
    expected = load_image(str(tmp_path / "a.jpg"))
    assert expected.size == (24, 32)
    assert (np.asarray(decode(Path(question.image))) == np.asarray(expected)).all()


@pytest.mark.parametrize("kind", ["by id", "by split"])
def test_a_json_object_of_rows(images, tmp_path, kind):
    rows = rows_of()
    content = {f"q{i}": row for i, row in enumerate(rows)} if kind == "by id" else {"train": rows[:2], "test": rows[2:]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    questions, _ = imported(tmp_path / "a.json", images, tmp_path)
    assert [q.question for q in questions] == [row["question"] for row in rows]
    assert [q.split for q in questions] == ([None] * 3 if kind == "by id" else ["train", "train", "test"])


def test_a_relation_to_the_question_says_what_is_no_paraphrase(images, tmp_path):
    """As VQA-RAD publishes it; no operator tells that "midline" inverts "deviated"."""
    row = {"image_name": "a/0.png", "qid_linked_id": "L", "answer_type": "CLOSED", "question_relation": "inversion"}
    original = {"phrase_type": "freeform", "question": "Is the trachea deviated?", "answer": "no"}
    rows = [
        {**row, **original, "question_rephrase": "Is the trachea midline?"},
        {
            **row,
            "phrase_type": "para",
            "question": "Is the trachea midline?",
            "answer": "no",
            "question_rephrase": "NULL",
        },
        {**row, **original, "question_relation": "strict agreement", "question_rephrase": "Is the windpipe deviated?"},
    ]
    [question], report = imported(rows, images, tmp_path, "vqa-rad")
    assert [p.text for p in question.paraphrases] == ["Is the windpipe deviated?"]
    assert report.dropped_paraphrases == {OTHER_MEANING: 1}


def test_a_json_file_that_pandas_wrote_by_columns(images, tmp_path):
    pd.DataFrame(rows_of()).to_json(tmp_path / "q.json")
    questions, _ = imported(tmp_path / "q.json", images, tmp_path)
    assert [q.answer for q in questions] == ["yes", "no", "yes"]


@pytest.mark.parametrize(
    "columns",
    [{"answer_type": "CLOSED"}, {"is_yesno": 1.0}, {"question_type": "yes/no"}, {"question_type": "closed-ended"}],
)
@pytest.mark.parametrize("format", ["psf-med", "medical-cxr-vqa", "vqa-rad"])
def test_a_data_set_says_which_questions_are_closed(images, tmp_path, format, columns):
    if format == "vqa-rad" and "is_yesno" in columns:
        columns = {"answer_type": "close"}
    rows = [row | columns | {"question": f"Finding {i}"} for i, row in enumerate(rows_of(answer=[1, 0, 1]))]
    questions, report = imported(rows, images, tmp_path, format)
    assert [(q.answer, q.closed) for q in questions] == [("yes", True), ("no", True), ("yes", True)]
    assert {q.type for q in questions} == {"other" if format == "vqa-rad" else "presence"}
    undeclared = [{name: value for name, value in row.items() if name not in columns} for row in rows]
    questions, report = imported(undeclared, images, tmp_path, format, "undeclared")
    assert [q.closed for q in questions] == [False] * 3
    assert report.other_answers == {"1": 2, "0": 1}


def test_one_sided_answers_are_a_warning(images, tmp_path, capsys):
    _, report = imported(rows_of(answer=["yes", "Yes, one", "1"]), images, tmp_path)
    assert any("every yes/no question has the true answer 'yes'" in note for note in report.notes)
    assert "every yes/no question of split 'all' has the true answer 'yes'" in capsys.readouterr().err
    _, report = imported(rows_of(), images, tmp_path, name="both")
    assert not any("every yes/no question" in note for note in report.notes)
    assert "every yes/no question" not in capsys.readouterr().err


def test_vqa_rad_says_which_questions_are_closed(images, tmp_path):
    rows = [
        ("Is there edema?", "Yes, a small one", "CLOSED "),
        ("Edema in the bases", "1", "CLOSED"),
        ("Is the lesion left or right?", "left", "CLOSED"),
        ("Is the heart enlarged or normal?", "1", "CLOSED"),
        ("Is it known where?", "No edema", "OPEN"),
        ("What is abnormal?", "None", "OPEN"),
    ]
    table = pd.DataFrame(rows, columns=["question", "answer", "answer_type"]).assign(image="a/0.png")
    questions, report = imported(table, images, tmp_path, "vqa-rad")
    found = [(q.true_answer, q.closed) for q in questions]
    assert found == [
        ("yes", True),
        ("yes", True),
        ("left", False),
        ("1", False),
        ("no", True),
        ("none", False),
    ]
    assert report.other_answers == {}


@pytest.mark.parametrize("variant", [[0, 1, 2], ["0", "1", "2"], ["baseline", "v1", "v2"], [True, False, False]])
@pytest.mark.parametrize("kind", ["csv", "frame"])
def test_a_column_of_labels_is_no_column_of_wordings(images, tmp_path, variant, kind):
    table = pd.DataFrame(
        {
            "baseline_question": "Is there edema?",
            "question": ["Is there edema?", "Any edema?", "Is edema seen?"],
            "variant": variant,
            "image": "a/0.png",
            "answer": "yes",
        }
    )
    table.to_csv(tmp_path / "q.csv", index=False)
    source = table if kind == "frame" else tmp_path / "q.csv"
    (question,), _ = imported(source, images, tmp_path, "medical-cxr-vqa")
    assert [p.text for p in question.paraphrases] == ["Any edema?", "Is edema seen?"]


def test_a_needed_column_of_labels_is_refused(images, tmp_path):
    table = pd.DataFrame({"question": "Is there edema?", "paraphrase": [1, 2], "image": "a/0.png", "answer": "yes"})
    with pytest.raises(InputError, match=r"no column for 'paraphrases'. Found .*paraphrase \(which holds labels"):
        import_questions(table, "psf-med", images, tmp_path / "out.jsonl")


TWICE = {
    "psf-med": {"paraphrases": "Any edema?"},
    "medical-cxr-vqa": {},
    "hard-positives": {"baseline_question": "Is there edema?", "strategy": "baseline", "variant_index": 0},
    "vqa-rad": {"qid_linked_id": "L1"},
    "jsonl": {"type": "presence"},
}


@pytest.mark.parametrize("format", TWICE)
def test_two_answers_to_one_question_are_dropped_and_counted_by_every_reader(images, tmp_path, format):
    def row(i, question, answer, image="a/0.png"):
        return {"id": str(i), "question": question, "answer": answer, "image": image} | TWICE[format]

    rows = [
        row(0, "Is there edema?", "yes"),
        row(1, "is there edema", "No.")
        | ({"baseline_question": "Is there edema?"} if format == "hard-positives" else {}),
        row(2, "Is there edema?", "no", "a/1.png"),
        # Twice the same answer in another spelling.
        row(3, "Is there edema?", "No edema.", "a/1.png"),
    ]
    questions, report = imported(rows, images, tmp_path, format)
    assert {Path(q.image).name for q in questions} == {"1.png"}
    assert {q.true_answer for q in questions} == {"no"}
    assert set(report.dropped) == {"two answers to one question"}


def test_a_question_in_groups_with_two_answers_is_dropped(images, tmp_path):
    table = "question,image,answer,paraphrases\nIs there effusion?,a/0.png,yes,Any effusion?\n"
    table += "Is there effusion?,a/0.png,no,Is effusion seen?\nIs there edema?,a/0.png,no,Any edema?\n"
    (tmp_path / "q.csv").write_text(table)
    (question,), report = imported(tmp_path / "q.csv", images, tmp_path)
    assert question.question == "Is there edema?"
    assert report.dropped == {"two answers to one question": 1}
    baseline = [
        {"baseline_question": "Is there edema?", "question_variant": text, "answer": answer, "image": "a/0.png"}
        | {"question": text, "split": "train"}
        for text, answer in [("Any edema?", "yes"), ("Edema seen?", "no")]
    ]
    with pytest.raises(InputError, match=r"no question is left. Left out: two answers to one question: 1"):
        import_questions(baseline, "medical-cxr-vqa", images, tmp_path / "b.jsonl")


def test_a_paraphrase_that_is_a_question_with_another_answer_is_dropped(images, tmp_path):
    rows = rows_of(image=["a/0.png"] * 3, paraphrases=[["Any edema?", "IS THERE EFFUSION?"], [], []])
    questions, report = imported(rows, images, tmp_path)
    assert [p.text for p in questions[0].paraphrases] == ["Any edema?"]
    assert report.dropped_paraphrases == {"paraphrase that is a question with another answer": 1}


def test_wordings_that_differ_in_spaces_alone_are_one(images, tmp_path, capsys):
    texts = ["Is  it?", "Is it", "Any fluid?", "Is it", " Any fluid? "]
    row = {"id": "1", "image": "a/0.png", "type": "presence", "question": "Is it?", "answer": "yes"}
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps(row | {"paraphrases": [{"text": text} for text in texts]}))
    (question,) = load_questions(path, images)
    assert [p.text for p in question.paraphrases] == ["Is it", "Any fluid?"]
    said = "3 paraphrases repeat another wording of their question, the first in row 1. They are left out."
    assert said in capsys.readouterr().err


def test_contradictions_in_a_file_of_questions_are_left_out_and_said(images, tmp_path, capsys):
    rows = [
        {"id": str(i), "type": "presence", **row, "paraphrases": [], "image": "a/0.png", "answer": answer}
        for i, (row, answer) in enumerate(zip(rows_of(question=["Is it?", "is it", "Is there?"]), "yny", strict=True))
    ]
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (question,) = load_questions(path, images)
    assert question.question == "Is there?"
    assert (
        "2 questions have two true answers about one image, the first in row 1. They are left out"
        in capsys.readouterr().err
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    with pytest.raises(InputError, match=r"2 questions have two true answers.* no other question is left"):
        load_questions(path, images)


def test_several_images_are_a_reason_of_their_own(images, tmp_path):
    cells = ["a/0.png", "['a/1.png' 'a/2.png']", "a/1.png|a/2.png"]
    for format in ("psf-med", "medical-cxr-vqa", "vqa-rad"):
        (question,), report = imported(rows_of(image=cells), images, tmp_path, format, format)
        assert Path(question.image).name == "0.png"
        assert report.dropped == {"several images": 2}
    rows = [row | {"id": str(i), "type": "presence"} for i, row in enumerate(rows_of(image=["a/0.png", cells, None]))]
    rows = [row | {"paraphrases": []} for row in rows]
    _, report = imported(rows, images, tmp_path, "jsonl", "own")
    assert report.dropped == {"several images": 1, "field 'image': missing": 1}


@pytest.mark.parametrize(
    "place",
    [
        "{root}/a/0.png",
        "/data/physionet/images/a/0.png",
        "C:\\data\\images\\a\\0.png",
        "D:/data\\images/a\\0.png",
        "a\\0.png",
        ".\\a\\0.png",
        "./a/0.png",
        "images/a/0.png",
        "file://{root}/a/0.png",
        "\\\\server\\share\\a\\0.png",
    ],
)
def test_absolute_and_windows_paths_are_found_below_the_images(images, tmp_path, place):
    rows = rows_of(image=[place.format(root=images), "a/1.png", "a/2.png"])
    questions, report = imported(rows, images, tmp_path)
    assert questions[0].image == str(images / "a" / "0.png")
    assert json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])["image"] == "a/0.png"
    assert report.dropped == {}


def test_paths_that_do_not_lead_to_one_file_are_left_out(images, tmp_path):
    rows = rows_of(image=["/x/one/a/0.png", "/x/two/a/0.png", "/x/a/../a/1.png"]) + rows_of(image=["a/3.png"] * 3)
    _, report = imported(rows, images, tmp_path)
    assert report.dropped == {
        "image path ends like that of another image": 2,
        "image path leads out of the image folder": 1,
    }


def test_images_inside_a_parquet_file_are_written_beside_the_questions(tmp_path):
    cells = [{"bytes": png(0), "path": "p10/p10000032/s1/0.png"}, {"bytes": png(1), "path": None}]
    cells.append({"bytes": png(0)[:50], "path": "x.png"})
    pd.DataFrame(rows_of(image=cells, answer=[1, 0, 1])).to_parquet(tmp_path / "q.parquet")
    questions, report = imported(tmp_path / "q.parquet", None, tmp_path)
    assert [Path(q.image).read_bytes() for q in questions] == [png(0), png(1)]
    assert {Path(q.image).parent for q in questions} == {tmp_path / "out-images"}
    assert len(list((tmp_path / "out-images").iterdir())) == 2
    assert questions[0].patient == "10000032"
    assert report.dropped == {"not a readable image (truncated)": 1} or report.dropped == {
        "not a readable image (damaged or not an image)": 1
    }
    assert "10000032" not in questions[0].image
    # Nothing is overwritten, and an import without a question leaves nothing.
    with pytest.raises(InputError, match="exists already"):
        imported(tmp_path / "q.parquet", None, tmp_path)
    with pytest.raises(InputError, match="no question is left"):
        import_questions(rows_of(image=cells[2:] * 3), "psf-med", None, tmp_path / "none.jsonl")
    assert not list(tmp_path.glob("none*"))
    assert not list(tmp_path.glob(".partial*"))


def test_images_in_text(tmp_path):
    encoded = base64.b64encode(png(0)).decode()
    for cell in (encoded, f"data:image/png;base64,{encoded}", {"bytes": encoded}, str({"bytes": png(0), "path": None})):
        assert image_in(cell) == EmbeddedImage(png(0), None)
    assert image_in([{"bytes": png(0)}, {"bytes": png(1)}]) == SeveralImages(2)
    assert image_in("iVBORw0KGgo.png") == "iVBORw0KGgo.png"


@pytest.mark.parametrize("label_names", [["no", "yes"], ["yes", "no"]])
@pytest.mark.parametrize("kind", ["dataset", "parquet", "splits", "folder"])
def test_data_sets_of_the_hugging_face_hub(tmp_path, kind, label_names):
    """The number of a label means what the data set says: 0 is yes in one of both."""
    labels = datasets.ClassLabel(names=label_names)
    rows = rows_of(image=[{"bytes": png(i), "path": f"{i}.png"} for i in range(3)])
    data = datasets.Dataset.from_dict(
        {
            "question": [row["question"] for row in rows],
            "image": [row["image"] for row in rows],
            "answer": [labels.str2int(row["answer"]) for row in rows],
        },
        features=datasets.Features({"question": datasets.Value("string"), "image": datasets.Image(), "answer": labels}),
    )
    source = data
    if kind == "parquet":
        source = tmp_path / "q.parquet"
        data.to_parquet(source)
    elif kind == "splits":
        source = datasets.DatasetDict(train=data.select([0, 1]), test=data.select([2]))
    elif kind == "folder":
        source = tmp_path / "data"
        source.mkdir()
        data.select([0, 1]).to_parquet(source / "train-00000-of-00001.parquet")
        data.select([2]).to_parquet(source / "test-00000-of-00001.parquet")
    questions, report = imported(source, None, tmp_path, "medical-cxr-vqa")
    by_question = {q.question: q for q in questions}
    assert [by_question[row["question"]].answer for row in rows] == ["yes", "no", "yes"]
    assert [Path(by_question[row["question"]].image).read_bytes() for row in rows] == [png(i) for i in range(3)]
    if kind in ("splits", "folder"):
        assert report.splits == {"train": 2, "test": 1}


def test_a_folder_that_save_to_disk_wrote(tmp_path):
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "question": datasets.Value("string"),
            "answer": datasets.ClassLabel(names=["yes", "no"]),
        }
    )
    parts = {
        name: datasets.Dataset.from_dict(
            {"image": [{"bytes": png(i), "path": None}], "question": ["Is there edema?"], "answer": [i]}, features
        )
        for i, name in enumerate(("train", "test"))
    }
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    (tmp_path / "images").mkdir()
    questions, _ = imported(tmp_path / "saved", tmp_path / "images", tmp_path, "medical-cxr-vqa")
    assert [(q.split, q.true_answer) for q in questions] == [("test", "no"), ("train", "yes")]


def test_a_frame_holds_pictures_and_missing_values(tmp_path):
    table = pd.DataFrame(rows_of(image=[Image.open(io.BytesIO(png(i))) for i in range(3)]))
    table["answer"] = pd.array([1, pd.NA, 0], dtype="Int64")
    questions, _ = imported(table, None, tmp_path)
    assert [q.answer for q in questions] == ["yes", None, "no"]
    for i, question in enumerate(questions):
        assert np.array_equal(Image.open(question.image), Image.open(io.BytesIO(png(i))))


@pytest.mark.parametrize("source", [[1, 2], {"a": 5}, [["Is it?"]]])
def test_what_is_no_table_is_refused(images, tmp_path, source):
    with pytest.raises(InputError, match="found rows that are not objects"):
        import_questions(source, "psf-med", images, tmp_path / "out.jsonl")

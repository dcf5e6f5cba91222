"""Reading questions: valid files are read, and every other file gives one clear error."""

import shutil

import pytest
from conftest import read_rows, write_rows

from interp.questions.files import load_questions, split_of
from interp.questions.schema import Question
from interp.questions.tables import fingerprint, pair_table, prompt_table
from interp.runtime.errors import InputError


def test_a_valid_file_is_read(own_data):
    questions = load_questions(own_data / "questions.jsonl")
    assert len(questions) == 12
    assert questions[0].closed
    assert questions[0].paraphrases[0].register_ == "casual"
    assert questions[0].image == str(own_data / "images" / "0.png")


def test_tables_are_aligned(own_data):
    prompts = prompt_table(load_questions(own_data / "questions.jsonl"))
    pairs = pair_table(prompts)
    assert len(pairs) == 24
    assert (prompts.iloc[pairs["original"]]["variant"] == 0).all()
    assert (prompts.iloc[pairs["paraphrase"]]["variant"] > 0).all()
    assert (
        prompts.iloc[pairs["original"]]["id"].to_numpy() == prompts.iloc[pairs["paraphrase"]]["id"].to_numpy()
    ).all()
    assert set(pairs["phenomenon"]) == {"lexical_substitution", "untagged"}


def test_splits_are_by_patient_and_cover_everything(own_data):
    path = own_data / "questions.jsonl"
    rows = [row | {"patient": f"q{i}", "id": str(i)} for i, row in enumerate(read_rows(path) * 40)]
    for row in rows:
        row["image"] = shutil.copy(own_data / row["image"], own_data / f"{row['id']}.png").name
    write_rows(path, rows)
    everyone = load_questions(path)
    test = {q.patient for q in everyone if split_of(q) == "test"}
    assert 0.2 < len(test) / len(rows) < 0.4
    assert {q.patient for q in load_questions(path, split="test")} == test
    assert len(load_questions(path, split="train")) == len(rows) - len(test)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"paraphrases": [{"text": "  "}]}, "row 3: field paraphrases.0.text: .*blank"),
        ({"paraphrases": [{"text": ""}]}, "row 3: field paraphrases.0.text"),
        ({"type": "other", "answer": " ."}, "row 3: field answer: .*no letter or digit"),
        ({"boxes": [[50, 50, 10, 60]]}, "row 3: field boxes: .*with x0 < x1"),
        ({"id": "0-0"}, "row 3: its id is already used in row 1"),
        ({"answer": "maybe"}, "row 3: its answer is not among those of type 'presence' .no, yes."),
        ({"type": "colour"}, "row 3: field type: .*'colour', expected one of presence"),
        ({"image": "images/none.png"}, "row 3: its image is not in /"),
        ({"image": "../../etc/passwd"}, "row 3: its image path may lead out of the image folder"),
        ({"qestion": "?"}, "row 3: field qestion: Extra inputs"),
        ({"question": None}, "row 3: field question"),
    ],
)
def test_a_bad_row_is_named(own_data, change, expected):
    path = own_data / "questions.jsonl"
    rows = read_rows(path)
    rows[2] |= change
    write_rows(path, rows)
    with pytest.raises(InputError, match=expected):
        load_questions(path)


def test_a_patient_in_two_splits_is_refused(own_data):
    path = own_data / "questions.jsonl"
    rows = read_rows(path)
    rows[0]["split"], rows[1]["split"] = "train", "test"
    write_rows(path, rows)
    with pytest.raises(InputError, match="row 2: its patient is in both splits"):
        load_questions(path)


def test_a_byte_order_mark_is_skipped(own_data):
    path = own_data / "questions.jsonl"
    before = load_questions(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_questions(path) == before


def test_a_folder_is_refused(own_data):
    with pytest.raises(InputError, match=r"is a folder\. Give a JSON Lines file"):
        load_questions(own_data)


def test_an_image_in_two_splits_is_refused(own_data):
    path = own_data / "questions.jsonl"
    rows = read_rows(path)
    rows[0] |= {"patient": "a", "split": "train"}
    rows[1] |= {"patient": "b", "split": "test", "image": rows[0]["image"]}
    write_rows(path, rows[:2])
    with pytest.raises(InputError, match="row 2: its image is in both splits"):
        load_questions(path)


def test_without_patients_the_splits_do_not_depend_on_the_image_folder(own_data, tmp_path_factory):
    path = own_data / "questions.jsonl"
    rows = [row | {"id": str(i)} for i, row in enumerate(read_rows(path) * 40)]
    for row in rows:
        row["image"] = shutil.copy(own_data / row["image"], own_data / f"{row['id']}.png").name
        row.pop("patient", None)
    # A blank patient is none, and this is another way to write the path.
    rows[0] |= {"patient": " ", "image": f"./{rows[0]['image']}"}
    write_rows(path, rows)
    elsewhere = tmp_path_factory.mktemp("other") / "folder"
    shutil.copytree(own_data, elsewhere)
    here, there = ([split_of(q) for q in load_questions(folder / path.name)] for folder in (own_data, elsewhere))
    assert here == there
    by_hash = [split_of(Question.model_validate(row)) for row in rows]
    assert here == by_hash
    assert len({q.group for q in load_questions(path)}) == len(rows)


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b'{"id": 1', "row 1: not a JSON object"), (b"\xff\xfe\x00", "not UTF-8"), (b"", "holds no questions")],
)
def test_a_bad_file_is_named(tmp_path, content, expected):
    path = tmp_path / "questions.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=expected):
        load_questions(path)


def test_missing_files_are_named(tmp_path, own_data):
    with pytest.raises(InputError, match="no such file"):
        load_questions(tmp_path / "absent.jsonl")
    with pytest.raises(InputError, match="no such folder"):
        load_questions(own_data / "questions.jsonl", images=tmp_path / "absent")


def test_the_fingerprint_depends_on_content_but_not_on_the_image_folder(own_data, tmp_path):
    questions = load_questions(own_data / "questions.jsonl")
    moved = [q.model_copy(update={"image": "/elsewhere/" + q.image.rsplit("/", 1)[1]}) for q in questions]
    assert fingerprint(questions) == fingerprint(moved)
    assert fingerprint(questions) != fingerprint(questions[:-1])

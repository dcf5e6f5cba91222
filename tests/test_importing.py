"""Importing data sets: published layouts are read, bad rows are counted, and bad files give one clear error."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from conftest import read_rows, write_rows
from dicoms import write_dicom
from PIL import Image
from typer.testing import CliRunner

from interp.cli.app import app
from interp.images.decode import NO_CONTRAST
from interp.importing.importer import import_questions
from interp.questions.files import load_questions
from interp.runtime.errors import InputError

SUBJECT, STUDY = "10000032", "50414267"


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(len(path.name)).integers(0, 255, (24, 20), dtype=np.uint8)).save(path)


@pytest.fixture
def mimic(tmp_path):
    """Three studies of two patients in MIMIC-CXR-JPG's layout."""
    root = tmp_path / "mimic-cxr-jpg"
    for subject, study, dicom in (
        (SUBJECT, STUDY, "02aa804e"),
        (SUBJECT, "53189527", "2a2277a9"),
        ("11000011", "51029426", "c0fe9f2c"),
    ):
        picture(root / f"files/p{subject[:2]}/p{subject}/s{study}/{dicom}.jpg")
    return root


def psf_rows():
    return [
        {
            "question_id": "q1",
            "original_question": "Is there pneumothorax?",
            "question_type": "presence",
            "answer": "No",
            "filename": "02aa804e.jpg",
            "is_yesno": True,
            "paraphrases": [
                {"text": "Is pneumothorax present?", "phenomenon": "syntactic_restructuring", "is_yesno": True},
                {"text": "Can pneumothorax be ruled out?", "phenomenon": "negation_pattern", "is_yesno": True},
                {"text": "Describe the pleural space.", "phenomenon": "specificity_modulation", "is_yesno": False},
                {"text": "is there PNEUMOTHORAX", "phenomenon": "lexical_substitution"},
            ],
        },
        {
            "question_id": "q2",
            "original_question": "Where is the opacity?",
            "question_type": "location",
            "answer": "left lower lobe",
            "filename": "c0fe9f2c.jpg",
            "is_yesno": False,
            "paraphrases": [],
        },
    ]


def run(source, format, images, tmp_path, subset=None):
    out = tmp_path / "out.jsonl"
    report = import_questions(source, format, images, out, subset)
    assert json.loads((tmp_path / "out.jsonl.report.json").read_text())["questions"] == report.questions
    questions = load_questions(out, images)
    assert len(questions) == report.questions
    return questions, report


def check_psf(questions, report):
    assert [q.question for q in questions] == ["Is there pneumothorax?", "Where is the opacity?"]
    assert [q.type for q in questions] == ["presence", "location"]
    assert [q.answer for q in questions] == ["no", "left lower lobe"]
    assert [(p.text, p.phenomenon) for p in questions[0].same_meaning] == [
        ("Is pneumothorax present?", "syntactic_restructuring")
    ]
    assert [(p.text, p.operator) for p in questions[0].paraphrases][1] == ("Can pneumothorax be ruled out?", "rule_out")
    assert questions[0].image.endswith(f"files/p10/p{SUBJECT}/s{STUDY}/02aa804e.jpg")
    assert [q.patient for q in questions] == [SUBJECT, "11000011"]
    assert report.inverted == {"rule_out": 1}
    assert report.without_paraphrases == 1


def test_psf_med_nested_json(mimic, tmp_path):
    path = tmp_path / "mimic.json"
    path.write_text(json.dumps({"results": psf_rows()}))
    questions, report = run(path, "psf-med", mimic, tmp_path)
    check_psf(questions, report)
    assert report.dropped_paraphrases == {
        "paraphrase that is not a yes/no question, unlike its original": 1,
        "paraphrase that repeats another wording": 1,
    }


def test_psf_med_parquet_with_newer_names(mimic, tmp_path):
    rows = []
    for row in psf_rows():
        new = {"id": row["question_id"], "question": row["original_question"], "ground_truth": row["answer"]}
        new |= {"image_path": row["filename"], "type": row["question_type"], "is_yesno_claude": row["is_yesno"]}
        new["paraphrases"] = [
            {"paraphrase": p["text"], "phenomena": p["phenomenon"], "is_yesno_claude": p.get("is_yesno")}
            for p in row["paraphrases"]
        ]
        rows.append(new)
    pd.DataFrame(rows).to_parquet(tmp_path / "mimic.parquet")
    check_psf(*run(tmp_path / "mimic.parquet", "psf-med", mimic, tmp_path))


def test_psf_med_older_lists_of_texts(mimic, tmp_path):
    rows = [row | {"paraphrases": [p["text"] for p in row["paraphrases"]]} for row in psf_rows()]
    write_rows(tmp_path / "mimic.jsonl", rows)
    questions, report = run(tmp_path / "mimic.jsonl", "psf-med", mimic, tmp_path)
    # Without flags, other questions cannot be recognized among the paraphrases.
    assert [p.text for p in questions[0].same_meaning] == ["Is pneumothorax present?", "Describe the pleural space."]
    assert report.inverted == {"rule_out": 1}


def test_psf_med_lists_that_pandas_wrote_into_cells(mimic, tmp_path):
    """pandas writes them as Python, not as JSON."""
    rows = [row | {"paraphrases": [p["text"] for p in row["paraphrases"]]} for row in psf_rows()]
    pd.DataFrame(rows).to_csv(tmp_path / "mimic.csv", index=False)
    assert "['Is pneumothorax present?'" in (tmp_path / "mimic.csv").read_text()
    questions, _ = run(tmp_path / "mimic.csv", "psf-med", mimic, tmp_path)
    assert [p.text for p in questions[0].same_meaning] == ["Is pneumothorax present?", "Describe the pleural space."]


def test_a_number_added_to_an_id_makes_it_unique(tmp_path):
    picture(tmp_path / "a.png")
    row = {"image": "a.png", "type": "presence", "question": "Is there a nodule?", "answer": "no"}
    write_rows(tmp_path / "given.jsonl", [row | {"id": id_} for id_ in ("x", "x", "x#2", "y")])
    questions, report = run(tmp_path / "given.jsonl", "jsonl", tmp_path, tmp_path)
    assert [q.id for q in questions] == ["x", "x#3", "x#2", "y"]
    assert "1 ids were used twice; a number was added to them" in report.notes


def test_an_image_belongs_to_the_patient_that_any_row_names(tmp_path):
    picture(tmp_path / "a.png")
    row = {"image": "a.png", "type": "presence", "question": "Is there a nodule?", "answer": "no"}
    write_rows(tmp_path / "given.jsonl", [row | {"id": "1"}, row | {"id": "2", "patient": "p"}])
    questions, _ = run(tmp_path / "given.jsonl", "jsonl", tmp_path, tmp_path)
    assert [q.patient for q in questions] == ["p", "p"]


def test_psf_med_with_a_row_per_paraphrase(tmp_path):
    picture(tmp_path / "padchest" / "1_a.png")
    text = "question_id,original_question,paraphrase,phenomenon,image_path,ground_truth\n"
    text += "7,Is there scoliosis?,Is scoliosis seen?,syntactic_restructuring,1_a.png,yes\n"
    text += '7,Is there scoliosis?,"Any scoliosis, here?",scope_quantification,1_a.png,yes\n'
    (tmp_path / "padchest_flip_bank.csv").write_text(text)
    (question,), report = run(tmp_path / "padchest_flip_bank.csv", "psf-med", tmp_path / "padchest", tmp_path)
    assert question.id == "7"
    assert question.answer == "yes"
    assert [(p.text, p.phenomenon) for p in question.paraphrases] == [
        ("Is scoliosis seen?", "syntactic_restructuring"),
        ("Any scoliosis, here?", "scope_quantification"),
    ]
    assert not report.patients_known
    assert any("patients are unknown" in note for note in report.notes)


def test_psf_med_folder_by_subset(mimic, tmp_path):
    folder = tmp_path / "psf-med"
    (folder / "data").mkdir(parents=True)
    write_rows(folder / "data" / "mimic_test.jsonl", psf_rows())
    write_rows(folder / "data" / "vindr_test.jsonl", [psf_rows()[1] | {"original_question": "Where is it?"}])
    check_psf(*run(folder, "psf-med", mimic, tmp_path, "mimic"))
    with pytest.raises(InputError, match=r"which subset.* one of mimic, padchest, vindr"):
        import_questions(folder, "psf-med", mimic, tmp_path / "b.jsonl")
    with pytest.raises(InputError, match="no table of the subset 'padchest'"):
        import_questions(folder, "psf-med", mimic, tmp_path / "b.jsonl", "padchest")


def test_psf_med_folder_by_its_card(mimic, tmp_path):
    folder = tmp_path / "psf-med"
    (folder / "v2").mkdir(parents=True)
    write_rows(folder / "v2" / "a.jsonl", psf_rows())
    write_rows(folder / "mimic_old.jsonl", [{"nothing": 1}])
    card = "---\nconfigs:\n- config_name: mimic\n  data_files:\n  - split: test\n    path: v2/a.jsonl\n---\n# PSF-Med\n"
    (folder / "README.md").write_text(card)
    check_psf(*run(folder, "psf-med", mimic, tmp_path, "mimic"))


def test_psf_med_from_the_offline_cache_of_the_hub(mimic, tmp_path, monkeypatch):
    repository = tmp_path / "hub" / "datasets--saillab--psf-med"
    snapshot = repository / "snapshots" / "0123456789abcdef"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123456789abcdef")
    write_rows(snapshot / "mimic.jsonl", psf_rows())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    check_psf(*run("saillab/psf-med", "psf-med", mimic, tmp_path, "mimic"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    with pytest.raises(InputError, match=r"not in the local cache.*--repo-type dataset"):
        import_questions("saillab/psf-med", "psf-med", mimic, tmp_path / "b.jsonl", "mimic")


def test_psf_med_without_answers_keeps_what_can_flip(mimic, tmp_path):
    rows = [{k: v for k, v in row.items() if k != "answer"} for row in psf_rows()]
    write_rows(tmp_path / "mimic.jsonl", rows)
    (question,), report = run(tmp_path / "mimic.jsonl", "psf-med", mimic, tmp_path)
    assert question.answer is None
    assert question.closed
    assert report.unanswered == 1
    assert report.dropped == {"neither an answer nor a yes/no question": 1}


VQA_COLUMNS = ["dicom_id", "subject_id", "study_id", "question", "question_type", "answer", "split"]
VQA = [
    ["02aa804e", SUBJECT, STUDY, "is there pneumothorax?", "presence", "no", "train"],
    ["02aa804e", SUBJECT, STUDY, "what abnormalities are seen?", "abnormality", "edema, effusion", "train"],
    ["2a2277a9", SUBJECT, "53189527", "which view is this?", "view", "PA view", "val"],
    ["2a2277a9", SUBJECT, "53189527", "what level is the edema?", "level", "mild", "val"],
    ["c0fe9f2c", "11000011", "51029426", "where is the effusion?", "location", "left", "test"],
    ["c0fe9f2c", "11000011", "51029426", "what type is the opacity?", "type", "interstitial", "test"],
]


def vqa_table(path, rows=VQA, columns=VQA_COLUMNS):
    pd.DataFrame(rows, columns=columns).to_csv(path, index=False)
    return path


def test_medical_cxr_vqa_of_all_six_types(mimic, tmp_path):
    questions, report = run(vqa_table(tmp_path / "vqa.csv"), "medical-cxr-vqa", mimic, tmp_path)
    assert [q.type for q in questions] == ["presence", "abnormality", "view", "level", "location", "type"]
    assert [q.answer for q in questions] == ["no", "edema, effusion", "pa", "mild", "left", "interstitial"]
    assert [q.split for q in questions] == ["train"] * 4 + ["test"] * 2
    assert questions[0].image == str(mimic / f"files/p10/p{SUBJECT}/s{STUDY}/02aa804e.jpg")
    assert [q.closed for q in questions] == [True] + [False] * 5
    assert "the validation split is counted as train" in report.notes


def test_medical_cxr_vqa_with_the_image_root_below_files(mimic, tmp_path):
    questions, _ = run(vqa_table(tmp_path / "vqa.csv"), "medical-cxr-vqa", mimic / "files", tmp_path)
    assert questions[0].image == str(mimic / f"files/p10/p{SUBJECT}/s{STUDY}/02aa804e.jpg")


PARAPHRASED = [*VQA_COLUMNS, "baseline_question", "question_variant", "variant_index", "strategy"]


def test_medical_cxr_vqa_with_paraphrase_columns(mimic, tmp_path):
    base = VQA[0]
    rows = [
        [*base, base[3], base[3], 0, "baseline"],
        [*base, base[3], "any pneumothorax?", 1, "lexical"],
        [*base, base[3], "is pneumothorax absent?", 2, "negation"],
        [*VQA[2], VQA[2][3], "which projection?", 1, "lexical"],
    ]
    path = vqa_table(tmp_path / "vqa.csv", rows, PARAPHRASED)
    questions, report = run(path, "medical-cxr-vqa", mimic, tmp_path)
    assert [q.question for q in questions] == ["is there pneumothorax?", "which view is this?"]
    assert [(p.text, p.phenomenon, p.operator) for p in questions[0].paraphrases] == [
        ("any pneumothorax?", "lexical", None),
        ("is pneumothorax absent?", "negation", "absent"),
    ]
    assert [p.text for p in questions[1].paraphrases] == ["which projection?"]
    assert report.paraphrases == 2


def test_hard_positives(mimic, tmp_path):
    image = f"files/p10/p{SUBJECT}/s{STUDY}/02aa804e.jpg"
    other = f"files/p10/p{SUBJECT}/s53189527/2a2277a9.jpg"
    columns = ["study_id", "image_path", "baseline_question", "question", "answer", "variant_index", "strategy"]
    rows = [
        [STUDY, f"['{image}']", "is there edema?", "can edema be seen?", "yes", 1, "syntactic"],
        [STUDY, f"['{image}']", "is there edema?", "is there edema?", "yes", 0, "baseline"],
        # The same words about another image are another question.
        ["53189527", other, "is there edema?", "is there edema?", "no", 0, "baseline"],
        ["53189527", other, "is there edema?", "any edema?", "yes", 1, "lexical"],
        ["53189527", f"['{image}', '{other}']", "is there edema?", "edema?", "yes", 1, "lexical"],
    ]
    path = vqa_table(tmp_path / "hard.csv", rows, columns)
    questions, report = run(path, "hard-positives", mimic, tmp_path)
    assert [(q.question, q.answer, [p.text for p in q.paraphrases]) for q in questions] == [
        ("is there edema?", "yes", ["can edema be seen?"]),
        ("is there edema?", "no", []),
    ]
    assert [q.patient for q in questions] == [SUBJECT] * 2
    assert report.dropped == {"several images": 1}
    assert report.dropped_paraphrases == {"paraphrase whose answer differs from the question's": 1}
    with pytest.raises(InputError, match="no column for 'original'"):
        import_questions(vqa_table(tmp_path / "vqa.csv"), "hard-positives", mimic, tmp_path / "b.jsonl")


def test_vqa_rad(tmp_path):
    for name in ("synpic1.jpg", "synpic2.jpg"):
        picture(tmp_path / "images" / name)
    shared = {
        "qid_linked_id": "L1",
        "image_name": "synpic1.jpg",
        "image_case_url": "case?id=9",
        "answer_type": "CLOSED",
    }
    rows = [
        {"qid": 2, "phrase_type": "test_para", "question": "Is the heart big?", "answer": "Yes", **shared},
        {
            "qid": 1,
            "phrase_type": "freeform",
            "question": "Is the heart enlarged?",
            "question_rephrase": "Is there cardiac enlargement?",
            "question_type": "SIZE",
            "answer": "yes ",
            **shared,
        },
        {"qid": 3, "phrase_type": "para", "question": "Is the heart small?", "answer": "no", **shared},
        {
            "qid": 4,
            "qid_linked_id": "L2",
            "phrase_type": "freeform",
            "question": "Is there a pneumothorax?",
            "question_rephrase": "NULL",
            "question_type": "PRES, POS",
            "answer": "No",
            "image_name": "synpic2.jpg",
            "image_case_url": "case?id=9",
        },
        {
            "qid": 5,
            "qid_linked_id": "L3",
            "question": "What plane is this?",
            "question_type": "PLANE",
            "answer": "Axial",
            "image_name": "synpic2.jpg",
        },
    ]
    (tmp_path / "VQA_RAD Dataset Public.json").write_text(json.dumps(rows))
    source = tmp_path / "VQA_RAD Dataset Public.json"
    questions, report = run(source, "vqa-rad", tmp_path / "images", tmp_path)
    assert [(q.id, q.type, q.question, q.answer) for q in questions] == [
        ("1", "other", "Is the heart enlarged?", "yes"),
        ("4", "presence", "Is there a pneumothorax?", "no"),
        ("5", "other", "What plane is this?", "axial"),
    ]
    assert [p.text for p in questions[0].paraphrases] == ["Is there cardiac enlargement?", "Is the heart big?"]
    assert questions[0].closed
    assert questions[0].patient == questions[1].patient == "case?id=9"
    assert report.dropped_paraphrases == {"paraphrase whose answer differs from the question's": 1}


def test_our_own_format_keeps_every_field_and_tags_inversions(own_data, tmp_path):
    rows = read_rows(own_data / "questions.jsonl")
    rows[0] |= {"boxes": [[1, 2, 3, 4]], "register": "formal"}
    rows[0]["paraphrases"].append({"text": "Is pneumothorax absent?"})
    rows[1] |= {"type": "colour"}
    write_rows(own_data / "mine.jsonl", rows)
    questions, report = run(own_data / "mine.jsonl", "jsonl", own_data, tmp_path)
    assert len(questions) == 11
    assert questions[0].boxes == [(1, 2, 3, 4)]
    assert questions[0].register_ == "formal"
    assert questions[0].paraphrases[0].register_ == "casual"
    assert questions[0].paraphrases[-1].operator == "absent"
    assert report.dropped == {"field 'type': value error": 1}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"filename": "../../etc/passwd"}, "image path leads out of the image folder"),
        ({"filename": "/etc/passwd"}, "image path leads out of the image folder"),
        ({"filename": "none.jpg"}, "image not found"),
        ({"filename": None}, "no image"),
        ({"original_question": "  "}, "no question"),
        ({"answer": "maybe"}, "answer of a presence question is not no, yes"),
        ({"filename": "truncated.jpg"}, "not a readable image .truncated."),
        ({"filename": "no_pixels.dcm"}, "a DICOM file without pixel data"),
        ({"filename": "twice.jpg"}, "image name matches several files"),
    ],
)
def test_a_bad_row_is_counted_and_the_others_kept(mimic, tmp_path, change, reason):
    picture(mimic / "whole.jpg")
    (mimic / "truncated.jpg").write_bytes((mimic / "whole.jpg").read_bytes()[:400])
    write_dicom(mimic / "no_pixels.dcm", None)
    picture(mimic / "a" / "twice.jpg")
    picture(mimic / "b" / "twice.jpg")
    first, second = psf_rows()
    write_rows(tmp_path / "mimic.jsonl", [first | change, second])
    questions, report = run(tmp_path / "mimic.jsonl", "psf-med", mimic, tmp_path)
    assert [q.id for q in questions] == ["q2"]
    ((found, count),) = report.dropped.items()
    assert count == 1
    assert re.fullmatch(reason, found)
    assert report.dropped_rows[found] == ["mimic.jsonl, row 1"]
    written = (tmp_path / "out.jsonl.report.json").read_text()
    assert "pneumothorax" not in written
    assert SUBJECT not in written
    assert str(tmp_path) not in written


def test_dicom_and_sixteen_bit_images_are_accepted(tmp_path):
    root = tmp_path / "vindr"
    root.mkdir()
    write_dicom(root / "0a1b.dicom", np.arange(600).reshape(20, 30))
    Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30)).save(root / "0c2d.png")
    rows = [psf_rows()[0] | {"filename": "0a1b"}, psf_rows()[0] | {"filename": "0c2d", "question_id": "q9"}]
    write_rows(tmp_path / "vindr.jsonl", rows)
    questions, report = run(tmp_path / "vindr.jsonl", "psf-med", root, tmp_path)
    assert [q.image for q in questions] == [str(root / "0a1b.dicom"), str(root / "0c2d.png")]
    assert report.images == 2


def test_questions_about_an_image_that_shows_nothing_are_left_out(tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    picture(root / "good.png")
    Image.new("L", (20, 24), 0).save(root / "black.png")
    Image.new("RGB", (20, 24), (5, 6, 7)).save(root / "plain.jpg")
    values = np.arange(600).reshape(20, 30)
    write_dicom(root / "far.dcm", values, WindowCenter=30000, WindowWidth=10)
    write_dicom(root / "zero.dcm", values, WindowCenter=30000, WindowWidth=0)
    Image.fromarray(np.where(values == 7, np.nan, values).astype(np.float32)).save(root / "nan.tif")
    names = ["good.png", "black.png", "plain.jpg", "far.dcm", "zero.dcm", "nan.tif"]
    write_rows(tmp_path / "mine.jsonl", [psf_rows()[0] | {"filename": n, "question_id": n} for n in names])
    questions, report = run(tmp_path / "mine.jsonl", "psf-med", root, tmp_path)
    assert [q.id for q in questions] == ["good.png", "zero.dcm"]
    dicom = "a DICOM file whose window, rescale, lookup table, padding or outlying values leave no contrast"
    assert report.dropped_rows == {
        NO_CONTRAST: ["mine.jsonl, row 2", "mine.jsonl, row 3"],
        dicom: ["mine.jsonl, row 4"],
        "grey values that are not finite (NaN or infinity)": ["mine.jsonl, row 6"],
    }


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "a.csv",
            b"foo,bar\n1,2\n",
            "no column for 'question'. Found bar, foo; expected question: original_question or",
        ),
        ("a.csv", "question,answer\nIs there \xe9?,yes\n".encode("latin-1"), "not UTF-8 text .*Save it as UTF-8"),
        ("a.csv", b"", "holds no rows"),
        (
            "a.csv",
            b"question,answer\nIs it?,yes\nSo, is it?,yes\n",
            "Expected 2 fields in line 3, saw 3.*Quote the cells",
        ),
        ("a.csv", b"question,answer\nSo, is it?,yes\n", "damaged .Length of header"),
        ("a.csv", b'question,answer\n"Is it?,yes\n', "damaged .EOF inside string"),
        ("a.json", b'{"results": [', "damaged"),
        ("a.json", b'{"other": 1}', "expected a list of objects"),
        ("a.parquet", b"PAR1", "damaged"),
        ("a.xlsx", b"PK", "found a file of kind '.xlsx', expected .csv"),
    ],
)
def test_a_bad_file_is_one_error_and_writes_nothing(mimic, tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=expected):
        import_questions(tmp_path / name, "psf-med", mimic, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()
    assert not (tmp_path / "out.jsonl.report.json").exists()


def test_an_unknown_format_is_refused(mimic, tmp_path):
    with pytest.raises(InputError, match=r"--format psf: no such format\. Choose one of psf-med, medical-cxr-vqa"):
        import_questions(tmp_path / "a.csv", "psf", mimic, tmp_path / "out.jsonl")


def test_a_patient_in_two_splits_is_refused(mimic, tmp_path):
    rows = [list(row) for row in VQA]
    rows[1][6] = "test"
    with pytest.raises(InputError, match="1 of 2 patients are in both train and test"):
        run(vqa_table(tmp_path / "vqa.csv", rows), "medical-cxr-vqa", mimic, tmp_path)
    assert not (tmp_path / "out.jsonl").exists()


def test_a_single_split_is_ignored(mimic, tmp_path):
    write_rows(tmp_path / "mimic.jsonl", [row | {"split": "test"} for row in psf_rows()])
    questions, _ = run(tmp_path / "mimic.jsonl", "psf-med", mimic, tmp_path)
    assert [q.split for q in questions] == [None, None]


def test_medical_cxr_vqa_without_columns_for_images(mimic, tmp_path):
    path = vqa_table(tmp_path / "vqa.csv", [row[3:] for row in VQA], VQA_COLUMNS[3:])
    with pytest.raises(InputError, match="no column for 'dicom'"):
        import_questions(path, "medical-cxr-vqa", mimic, tmp_path / "out.jsonl")


def test_the_command_says_what_was_left_out(mimic, tmp_path):
    write_rows(tmp_path / "mimic.jsonl", [*psf_rows(), psf_rows()[1] | {"filename": "none.jpg", "question_id": "q3"}])
    source, out = str(tmp_path / "mimic.jsonl"), str(tmp_path / "q.jsonl")
    arguments = ["import-questions", source, "--format", "psf-med", "--images", str(mimic), "--out", out]
    said = CliRunner().invoke(app, arguments)
    assert said.exit_code == 0
    output = " ".join(said.output.split())
    for words in ("2 questions (1 yes/no) on 2 images of 2 patients", "image not found", "rule out", "row 3"):
        assert words in output
    again = CliRunner().invoke(app, arguments)
    assert "exists already, and nothing is overwritten" in str(again.exception)

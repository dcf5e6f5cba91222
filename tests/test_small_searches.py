"""Searches with hardly any data: one image, one patient in each half, no registers, one layer. None of them crashes."""

import pandas as pd
import pytest
import torch

from interp.model.load import load_vlm
from interp.paths import WORLD
from interp.questions.files import load_questions
from interp.saes.locate import locate_saes
from interp.schemas.layers import read_layers
from interp.search.artifact import collapse_warnings
from interp.search.find import find_features
from interp.search.run_folder import save_result
from interp.search.settings import FindSettings

SAES = locate_saes(WORLD / "saes")
LAYERS = [4, 5]


@pytest.fixture(scope="module")
def planted():
    return load_vlm(WORLD / "planted", "cpu", "float32")


@pytest.fixture(scope="module")
def questions():
    return load_questions(WORLD / "questions.jsonl", split="train")[:200]


def written(result, folder):
    """The artifact, after it was written with its figures and read again."""
    save_result(result, folder)
    assert read_layers(folder / "layers.json") == result.artifact
    return result.artifact


def test_questions_about_one_image_have_no_held_out_half(planted, questions, tmp_path):
    image = questions[0].image
    found = written(
        find_features(planted, SAES, [q for q in questions[:20] if q.image == image], LAYERS), tmp_path / "run"
    )
    assert (found.verdict, found.layers, found.peak, found.gate) == ("too few flips", [], None, None)
    assert found.data.patients == 1
    for entry in found.profile:
        for name in ("recovery", "answer", "random_answer", "answer_growth"):
            measured = getattr(entry, name)
            assert measured is None or measured.value is None, name
    assert [entry.rule for entry in found.ranges] == ["answer", "write", "growth", "near-peak"]
    assert {entry.share.value for entry in found.ranges} == {None}


def test_with_one_patient_in_each_half_the_other_image_is_blank(planted, questions, tmp_path):
    patients = list(dict.fromkeys(q.patient for q in questions))[:2]
    few = [q for q in questions[:20] if q.patient in patients]
    found = written(find_features(planted, SAES, few, LAYERS, FindSettings(min_flips=1)), tmp_path / "run")
    assert found.data.patients == 2
    assert found.verdict == "too few flips"
    assert "patient" in found.reason


def test_without_registers_nothing_is_said_about_formality(planted, questions, tmp_path):
    untagged = [
        q.model_copy(
            update={"register_": None, "paraphrases": [p.model_copy(update={"register_": None}) for p in q.paraphrases]}
        )
        for q in questions[:80]
    ]
    found = written(find_features(planted, SAES, untagged, LAYERS, FindSettings(min_flips=1)), tmp_path / "run")
    assert found.formality is None
    assert [(entry.register_patch, entry.random_register) for entry in found.profile] == [(None, None)] * 2
    assert all(entry.answer is not None and entry.answer.value is not None for entry in found.profile)
    assert found.data.flip_bank > 0


def test_one_layer_is_profiled_but_not_called_a_gate(planted, questions, tmp_path):
    found = written(find_features(planted, SAES, questions, [5], FindSettings(min_flips=1)), tmp_path / "run")
    assert [entry.layer for entry in found.profile] == [5]
    assert (found.verdict, found.layers) == ("no gate found", [])
    assert "only layer 5 is profiled" in found.reason
    assert {(entry.first, entry.last) for entry in found.ranges} == {(5, 5)}


@pytest.mark.parametrize(
    ("margins", "answers", "said"),
    [
        ([-1.0] * 20, ["yes"] * 10 + ["no"] * 10, "the model answers no to all 20 wordings"),
        ([2.0] * 25, [None] * 25, "the model answers yes to all 25 wordings"),
        ([-1.0] * 19 + [1.0], ["yes"] * 10 + ["no"] * 10, ""),
        ([-1.0] * 20, ["no"] * 20, ""),
        ([-1.0] * 19, ["yes"] * 10 + ["no"] * 9, ""),
    ],
)
def test_one_answer_to_everything_is_said(margins, answers, said):
    found = collapse_warnings(pd.DataFrame({"answer": answers}), torch.tensor(margins))
    assert [line[: len(said)] for line in found] == ([said] if said else [])

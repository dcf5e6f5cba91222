"""Wrong arguments from Python raise InputError, which names the parameter and never an option of the command line."""

import random
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import finetune
import interp
from interp.questions.files import load_questions
from interp.schemas.layers import ProfileEntry


@pytest.fixture(scope="module")
def planted() -> interp.Vlm:
    return interp.load_vlm()


@pytest.fixture(scope="module")
def asked() -> list[interp.Question]:
    return load_questions(split="train")[:40]


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        ([99], "layer 99: the model has layers 0 to 9"),
        ([-1], "layer -1: the model has layers 0 to 9"),
        ([], "layers is empty"),
        ("3-", "layers '3-': expected"),
        (3, "layers is 3, expected a list"),
        ([1.5], "layers holds 1.5"),
        (["3"], "layers holds '3'"),
    ],
)
def test_wrong_layers_are_named(planted: interp.Vlm, asked: list[interp.Question], layers: Any, says: str):
    with pytest.raises(interp.InputError, match=says) as error:
        interp.find_features(planted, questions=asked, layers=layers)
    assert "--" not in str(error.value)


def test_swapped_and_foreign_arguments_are_named(planted: interp.Vlm, asked: list[interp.Question]):
    sae = interp.load_sae(str(interp.locate_saes(interp.WORLD / "saes")[4]), 4, planted.d_model)
    find, study = interp.find_features, interp.study_feature
    calls: list[tuple[Any, str]] = [
        (lambda: find(asked, questions=planted), "vlm is of type list, expected a Vlm"),  # type: ignore[arg-type]
        (lambda: find(planted, asked, interp.WORLD), "world: is a folder. Give a JSON Lines file"),  # type: ignore[arg-type]
        (lambda: find(planted, questions=3), "questions is of type int"),  # type: ignore[arg-type]
        (lambda: find(planted, questions=interp.WORLD / "questions.jsonl", split="trian"), "split is 'trian'"),
        (lambda: study(planted, interp.WORLD / "saes", asked, "4"), "'4': found no feature"),
        (lambda: find(planted, asked, asked), "saes is of type list"),  # type: ignore[arg-type]
        (lambda: find(planted, questions=[q.model_dump() for q in asked]), r"questions\[0\] is of type dict"),  # type: ignore[misc]
        (lambda: find(planted), "questions is empty"),
        (lambda: study(sae, planted, asked, 110), "vlm is of type Sae"),  # type: ignore[arg-type]
        (lambda: study(planted, sae, asked, "4:110"), "feature is '4:110'"),  # type: ignore[arg-type]
        (lambda: interp.load_sae("no/such/sae", 4, planted.d_model), "no/such/sae"),
    ]
    for call, says in calls:
        with pytest.raises(interp.InputError, match=says):
            call()


def test_functions_that_take_many_types_name_those_that_they_do_not(
    planted: interp.Vlm, asked: list[interp.Question], tmp_path: Path
):
    data, saes, fit = interp.DataSpec(limit=4), interp.WORLD / "saes", interp.transfer_check
    train: Any = partial(finetune.train_and_evaluate, interp.ModelSpec(), data, tmp_path / "out")
    kinds: list[tuple[Any, str]] = [
        (asked, "kinds is of type list, expected a dict of names to questions"),
        ({}, "kinds is empty"),
        ({"mine": 3}, r"kinds\['mine'\] is of type int, expected a list of Question"),
        ({"mine": [3, 4]}, r"kinds\['mine'\]\[0\] is of type int"),
        ({"mine": interp.prompt_table(asked)[["text", "image"]]}, r"kinds\['mine'\] has no column 'closed'"),
    ]
    calls: list[tuple[Any, str]] = [
        *((partial(fit, planted, saes, each), says) for each, says in kinds),
        (lambda: fit(planted, saes, {"mine": asked}, reference="m"), "reference is of type str"),  # type: ignore[arg-type]
        (lambda: interp.compare(None, "run"), "a is None, expected a folder of a search"),  # type: ignore[arg-type]
        (lambda: interp.compare(tmp_path, asked), "b is of type list"),  # type: ignore[arg-type]
        (lambda: train(layers_from=3), "layers_from is of type int, expected a layers.json"),
        (lambda: finetune.evaluate_saved(None, data), "adapters is None"),  # type: ignore[arg-type]
        # A single set of clamps needs no list; without SAEs it is named as a whole.
        (
            lambda: finetune.evaluate_saved([], data, clamps="5:466"),
            "layer 5 has no SAE",
        ),
    ]
    for call, says in calls:
        with pytest.raises(interp.InputError, match=says):
            call()
    assert not list(tmp_path.iterdir())


def test_a_split_is_checked_and_the_truth_is_recorded(planted: interp.Vlm, asked: list[interp.Question]):
    test = load_questions(split="test")[:40]
    with pytest.raises(interp.InputError, match="split is 'trian', expected one of train, test, all"):
        interp.find_features(planted, questions=asked, split="trian")
    with pytest.raises(interp.InputError, match="split is 'train', but 40 of 80 questions are of another split"):
        interp.find_features(planted, questions=asked + test, split="train")
    of = {"train": asked, "test": test, "all": asked + test}
    for truth, questions in of.items():
        found = interp.find_features(planted, questions=questions, layers="4")
        assert found.artifact.data.split == truth
        assert found.profile == found.artifact.profile
        assert isinstance(found.profile[0], ProfileEntry)
        assert (found.verdict, found.layers) == (found.artifact.verdict, found.artifact.layers)
        shown = repr(found.artifact)
        assert "\n" not in shown
        assert len(shown) < 300
        assert found.verdict in shown


def test_few_questions_raise_no_warning_of_a_library(planted: interp.Vlm):
    questions = load_questions(split="train")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in (1, 2):
            few = random.Random(seed).sample(questions, 3)
            interp.find_features(planted, questions=few, layers="4")


def test_a_question_is_shown_without_its_patient_and_as_it_is_made(asked: list[interp.Question]):
    shown = repr(asked[0])
    assert asked[0].image not in shown
    assert f"'{asked[0].patient}'" not in shown
    assert "register=" in shown
    assert "register_" not in shown

"""ModelSpec and DataSpec: what they load, and the errors that they raise."""

import pytest

from interp.model.prompts import DEFAULT_STYLE, PromptStyle, chat_messages
from interp.model.spec import ModelSpec
from interp.paths import WORLD
from interp.questions.files import load_questions, write_questions
from interp.questions.spec import DataSpec
from interp.runtime.errors import InputError


def test_only_the_given_fields_change_the_prompt_style():
    trained = PromptStyle(image_first=False, system="Be brief.", normalize=True)
    assert ModelSpec().prompt_style() == DEFAULT_STYLE
    assert ModelSpec().prompt_style(trained) == trained
    changed = ModelSpec(normalize=False, answer_instruction="Answer yes or no.").prompt_style(trained)
    assert changed == trained._replace(normalize=False, answer_instruction="Answer yes or no.")


def test_the_normal_form_is_a_way_to_normalize():
    assert ModelSpec(normal_form="psf-med").prompt_style().normalize == "psf-med"
    assert ModelSpec(normal_form="psf-med", normalize=True).prompt_style().normalize == "psf-med"
    assert ModelSpec(normal_form="gatescope").prompt_style() == ModelSpec(normalize=True).prompt_style()
    asked = ModelSpec(normal_form="psf-med").prompt_style()
    said = [chat_messages("Got a big heart?", True, False, style)[0]["content"] for style in (DEFAULT_STYLE, asked)]
    assert [part["text"] for (part,) in said] == [
        "Got a big heart?",
        "Is cardiomegaly present in this chest radiograph?",
    ]
    with pytest.raises(InputError, match="as-asked"):
        ModelSpec(normal_form="psf-med", normalize=False).prompt_style()


@pytest.mark.parametrize(("field", "option"), [("system", "--system"), ("answer_instruction", "--answer-instruction")])
def test_texts_of_a_prompt_that_are_not_utf8_are_refused(field, option):
    read = b"Answer yes or no\xff".decode("utf-8", "surrogateescape")  # as Python reads arguments
    with pytest.raises(InputError, match=f"^{option}: found bytes that are not UTF-8 after 16 characters"):
        ModelSpec(**{field: read}).prompt_style()
    assert getattr(ModelSpec(**{field: "Responda sí o no."}).prompt_style(), field) == "Responda sí o no."


def test_a_model_is_loaded_as_specified(tiny_model, tmp_path):
    vlm = ModelSpec(tiny_model, device="cpu", dtype="bfloat16", image_cache=tmp_path, system="Be brief.").load()
    assert (vlm.name, vlm.arithmetic, vlm.image_cache) == (tiny_model.name, "bfloat16", tmp_path)
    assert vlm.style == DEFAULT_STYLE._replace(system="Be brief.")
    assert ModelSpec(device="cpu").load().name == "planted"


def test_questions_are_those_of_the_split_up_to_the_limit():
    data = DataSpec(limit=3)
    assert data.load() == load_questions(split="train")[:3]
    training, test = data.load_splits()
    assert training == [q for q in load_questions(split="train") if q.answer is not None][:3]
    assert test == load_questions(split="test")[:3]


def test_splits_that_share_patients_or_lack_answers_are_refused(tmp_path):
    with pytest.raises(InputError, match="patients are in both"):
        DataSpec(split="all").load_splits()
    blank = tmp_path / "questions.jsonl"
    write_questions([q.model_copy(update={"answer": None}) for q in load_questions()], blank, WORLD)
    with pytest.raises(InputError, match="none of the questions to train on has an answer"):
        DataSpec(blank, WORLD).load_splits()

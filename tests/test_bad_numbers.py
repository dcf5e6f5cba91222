"""Numbers that would go bad quietly: what is not finite, a model that says one thing only, too little of everything."""

import numpy as np
import pandas as pd
import pytest
import torch
from finetune_world import make_world
from test_finetune_verdict import LOOKS, NAMES, SAME, SWAPS, comparison

from finetune.evaluation.answers import Answers
from finetune.evaluation.arms import Arm, base_arm
from finetune.evaluation.assess import collapse
from finetune.evaluation.evaluate import evaluate
from finetune.evaluation.verdict import verdict
from finetune.grounding.settings import GroundingSettings
from finetune.grounding.study import study
from interp.measurement.margins import measure
from interp.model.image_tokens import encode_images
from interp.model.load import load_vlm
from interp.questions.files import load_questions
from interp.questions.tables import prompt_table
from interp.runtime.errors import InputError
from interp.statistics import MIN_PAIRED_PATIENTS, Estimate


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    torch.set_num_threads(1)
    return make_world(tmp_path_factory.mktemp("numbers") / "world", patients=10)


@pytest.fixture
def vlm(world):
    return load_vlm(world.model, "cpu", "float32")


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_margin_that_is_not_finite_is_named_by_numbers(world, vlm, value):
    questions = load_questions(world.questions, split="test")
    prompts = prompt_table(questions)
    image = prompts["image"].iloc[40]
    bad = prompts[prompts["image"] == image]
    assert 0 < bad["question"].iloc[0] < 20
    first = bad.iloc[0]
    encode_images(vlm, list(prompts["image"]))
    vlm.image_tokens[image][3, 5] = value
    with pytest.raises(InputError) as stopped:
        measure(vlm, prompts)
    said = str(stopped.value)
    assert f"margins of {len(bad)} of {len(prompts)} prompts are not finite" in said
    assert f"wording {first['variant'] + 1} of question {first['question'] + 1} of those asked" in said
    assert not any(text in said for text in [*prompts["text"], *prompts["id"], *prompts["image"], *prompts["patient"]])


def answers_of(margin):
    nothing = np.full(len(margin), np.nan)
    return Answers(margin, nothing > 0, {}, nothing[:, None], np.full(len(margin), None, dtype=object), nothing)


def closed_prompts(answers):
    return pd.DataFrame({"closed": True, "answer": answers})


def test_a_model_that_says_one_thing_is_called_collapsed():
    prompts = closed_prompts(["yes"] * 12 + ["no"] * 18 + [None] * 5)
    yes, no = np.full(35, 0.3), np.full(35, -2.0)
    assert collapse(prompts, answers_of(yes), "x") == (
        "Collapsed: x answers yes to all 30 wordings of closed questions, though that is wrong for 18; the "
        "absence of flips means nothing."
    )
    assert "answers no to all 30 wordings of closed questions, though that is wrong for 12;" in collapse(
        prompts, answers_of(no), "x"
    )
    yes[3] = -0.1
    assert collapse(prompts, answers_of(yes), "x") is None
    # What is unknown does not count, and one truth alone asks for one answer.
    no[33] = 1.0
    assert collapse(prompts, answers_of(no), "x") is not None
    assert collapse(closed_prompts(["no"] * 30), answers_of(np.full(30, -1.0)), "x") is None
    assert collapse(closed_prompts(["yes", "no"] * 9), answers_of(np.full(18, 1.0)), "x") is None


def test_a_collapse_is_said_in_the_evaluation(world, vlm):
    questions = load_questions(world.questions, split="test")
    tokens = sorted({*vlm.answers.yes.tolist()})
    shift = torch.zeros(vlm.model.config.text_config.vocab_size)
    shift[tokens] = 50.0
    head = vlm.model.lm_head

    def always(on):
        class Forced:
            def __enter__(self):
                self.hook = head.register_forward_hook(lambda module, inputs, logits: logits + shift)

            def __exit__(self, *error):
                self.hook.remove()

        return Forced()

    found = evaluate(vlm, [base_arm(), Arm("agreeable", lambda: always(True))], questions, new_tokens=0)
    assert "agreeable" in found.collapsed
    assert found.sentences[-1].startswith("Collapsed: agreeable answers yes to all ")
    assert "Collapsed: agreeable" in found.to_json()


def verdict_with(patients, flips):
    values = [(flips, 0.0, 0.06), SAME, LOOKS, SWAPS]
    found = [comparison(name, *value) for name, value in zip(NAMES, values, strict=True)]
    found = [c._replace(patients=patients) for c in found]
    if patients < MIN_PAIRED_PATIENTS:
        found = [c._replace(difference=Estimate(c.difference.value, np.nan, np.nan)) for c in found]
    return verdict(found, "base", "x").sentence


def test_a_verdict_says_what_there_is_too_little_of():
    assert "With 4 patients there are no intervals; at least 6 are needed." in verdict_with(4, 0.2)
    assert "no interval, p" in verdict_with(4, 0.2)
    assert "nan" not in verdict_with(4, 0.2)
    assert "With 5 patients there are no intervals; at least 6 are needed." in verdict_with(5, 0.2)
    assert "no interval" not in verdict_with(6, 0.2)
    assert "The base flips on only 9 of 100 questions" in verdict_with(50, 0.09)
    assert "The base flips on" not in verdict_with(50, 0.10)


def test_maps_of_what_is_not_finite_are_refused(world, vlm):
    questions = [
        q.model_copy(update={"boxes": [(4, 6, 15, 20)]}) for q in load_questions(world.questions, split="test")
    ]
    vlm.model.model.language_model.layers[0].mlp.up_proj.weight.data[:] = torch.nan
    with pytest.raises(InputError, match=r"A margin of question 1 of those studied is not finite"):
        study(vlm, None, questions, GroundingSettings(limit=2, any_answer=True))

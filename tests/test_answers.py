"""Answers, the form of questions and inverted wordings, against lists judged by hand."""

import pytest

from interp.answers import asks_yes_or_no, normalize_answer
from interp.demo import WORLD
from interp.inversion import inverting_operator, operators_of
from interp.questions import Paraphrase, Question, load_questions, pair_table, prompt_table


@pytest.mark.parametrize(
    ("answer", "type_", "expected"),
    [
        ("Yes", "presence", "yes"),
        (" NO. ", "presence", "no"),
        ("True", "abnormality", "yes"),
        ("Yes, small.", "presence", "yes"),
        ("no; none seen", "presence", "no"),
        ("Northern", "presence", "northern"),
        ("yes, small", "other", "yes, small"),
        ("PA view", "view", "pa"),
        ("P.A.", "view", "pa"),
        ("antero-posterior", "view", "ap"),
        ("AP projection", "view", "ap"),
        ("left lateral", "view", "lateral"),
        ("axial", "view", "axial"),
        ("Moderate  to\tsevere.", "level", "moderate to severe"),
    ],
)
def test_one_spelling(answer, type_, expected):
    assert normalize_answer(answer, type_) == expected
    assert normalize_answer(expected, type_) == expected


CLOSED = [
    "Is there a nodule?",
    "Are there any signs of effusion on the left or right side?",
    "Please indicate whether any effusion is present.",
    "Could you tell me if there is edema?",
    "So is there fluid or not?",
    "Any fluid?",
    "Doesn’t the heart look big?",
    "Can you spot air around the lung?",
    "Opacity present?",
    "Effusion, or not?",
]
OPEN = [
    "What view is this?",
    "Is the effusion mild or severe?",
    "Is this one AP or PA?",
    "Describe the heart.",
    "Can you tell me what abnormality is seen?",
    "Kindly grade the severity of edema.",
    "Where is the nodule?",
    "",
]


@pytest.mark.parametrize(("question", "closed"), [*((q, True) for q in CLOSED), *((q, False) for q in OPEN)])
def test_the_form_of_a_question(question, closed):
    assert asks_yes_or_no(question) is closed


INVERTED = [
    ("Is there effusion?", "Can effusion be ruled out?", "rule_out"),
    ("Is there effusion?", "Does this study exclude effusion?", "rule_out"),
    ("Is there effusion?", "Is effusion absent?", "absent"),
    ("Is there effusion?", "Are the lungs clear of effusion?", "absent"),
    ("Is there effusion?", "Is the chest free of effusion?", "absent"),
    ("Is there effusion?", "Is there no effusion?", "negated"),
    ("Is there effusion?", "Is it true that no effusion is seen?", "negated"),
    ("Is there an abnormality?", "Is the x-ray normal?", "normal"),
    ("Is there an abnormality?", "Are the lungs clear?", "normal"),
    ("Is the heart normal?", "Is the heart abnormal?", "normal"),
    ("Can effusion be ruled out?", "Is there effusion?", "rule_out"),
]
SAME = [
    ("Is there effusion?", "Is effusion present, or is it not identified?"),
    ("Is there effusion?", "So is there effusion or not?"),
    ("Is there effusion?", "Is effusion present or absent?"),
    ("Is there effusion?", "Isn't there an effusion?"),
    ("Is there effusion?", "Is there clear evidence of effusion?"),
    ("Is there effusion?", "Can you rule out the absence of effusion?"),
    ("Is the heart normal?", "Is the cardiac silhouette within normal limits?"),
    ("Is there an abnormality?", "Are abnormal findings present?"),
    ("Is effusion absent?", "Can effusion be ruled out?"),
]


@pytest.mark.parametrize(("question", "wording", "operator"), [*INVERTED, *((*pair, None) for pair in SAME)])
def test_inverted_wordings(question, wording, operator):
    assert inverting_operator(question, wording) == operator


def test_the_embedded_world_inverts_nothing_and_every_form_is_recognised():
    # Its wordings of one question have one answer by construction, and its types tell which are closed.
    questions = load_questions(WORLD / "questions.jsonl")
    pairs = [(q.question, p.text) for q in questions for p in q.paraphrases]
    assert len(pairs) > 8000
    assert [pair for pair in pairs if inverting_operator(*pair)] == []
    texts = [(q.closed, text) for q in questions for text in (q.question, *(p.text for p in q.paraphrases))]
    assert [text for closed, text in texts if asks_yes_or_no(text) is not closed] == []


def test_operators_are_counted():
    assert operators_of("Can you rule out the absence of effusion?") == ["rule_out", "absent"]


def test_inverted_wordings_are_never_measured():
    inverted = Paraphrase(text="Is effusion absent?", operator="absent")
    question = Question(
        id="1",
        image="a.png",
        type="presence",
        question="Is there effusion?",
        answer="yes",
        paraphrases=[inverted, Paraphrase(text="Any effusion?")],
    )
    prompts = prompt_table([question])
    assert list(prompts["text"]) == ["Is there effusion?", "Any effusion?"]
    assert len(pair_table(prompts)) == 1


def test_a_question_without_an_answer_is_closed_by_its_form():
    shared = {"id": "1", "image": "a.png", "type": "presence"}
    assert Question(question="Is there effusion?", **shared).closed
    assert not Question(question="Where is it?", **shared).closed
    assert prompt_table([Question(question="Is there effusion?", **shared)])["answer"].isna().all()

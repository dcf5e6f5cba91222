"""Answers, the form of questions and inverting wordings, checked against hand-labelled lists."""

from decimal import Decimal

import numpy as np
import pytest

from interp.paths import WORLD
from interp.questions.answers import answer_text, normalize_answer
from interp.questions.files import load_questions
from interp.questions.generated_answers import begins_with_answer, parse_yes_no
from interp.questions.polarity import inverting_operator, operators_of
from interp.questions.schema import Paraphrase, Question
from interp.questions.tables import pair_table, prompt_table
from interp.questions.yes_no_form import asks_yes_or_no, question_form


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
def test_answers_are_normalized(answer, type_, expected):
    assert normalize_answer(answer, type_) == expected
    assert normalize_answer(expected, type_) == expected


@pytest.mark.parametrize(
    ("question", "answers"),
    [
        (
            "Is there pneumothorax?",
            {
                "yes": [
                    "Yes, a small one",
                    "yes there is",
                    "1",
                    "1.0",
                    "T",
                    "present",
                    "Positive.",
                    "['yes']",
                    "YES!",
                    "Sí, uno",
                ],
                "no": [
                    "No evidence of pneumothorax.",
                    "No edema",
                    "0",
                    "0.0",
                    "none",
                    "Absent",
                    "negative",
                    "Not seen.",
                    "There is no pneumothorax",
                    "without pneumothorax",
                    "no clear evidence",
                ],
                None: [
                    "yes and no",
                    "yes/no",
                    "no, yes",
                    "no way to tell",
                    "not clear",
                    "not sure",
                    "Northern",
                    "-1",
                    "2",
                ],
            },
        ),
        # "No consolidation" would be a yes here, so words that name findings are not understood.
        (
            "Is the chest clear?",
            {"yes": ["Yes", "1", "Yes, it is"], "no": ["No, see left", "0"], None: ["No edema"]},
        ),
        ("Can edema be ruled out?", {"yes": ["yes."], None: ["none", "absent", "no evidence of edema"]}),
        ("¿Hay derrame pleural?", {"yes": ["Sí", "si", "Sí, pequeño"], "no": ["No", "No hay derrame", "sin derrame"]}),
        ("¿Está agrandado el corazón?", {"yes": ["sí."], "no": ["no;"]}),
        ("Y a-t-il un épanchement ?", {"yes": ["Oui", "oui, minime"], "no": ["Non", "Pas d'épanchement", "aucun"]}),
        ("Gibt es einen Erguss?", {"yes": ["Ja", "ja, klein"], "no": ["Nein", "Kein Erguss"]}),
        ("What is abnormal?", {None: ["none", "No edema", "1", "null"]}),
        ("How many nodules?", {None: ["1", "0", "none"]}),
        ("Is the heart enlarged or normal?", {None: ["1", "normal", "no evidence of enlargement"]}),
        ("Finding 7", {"yes": ["Yes, small", "yes"], "no": ["No; clear", "false"], None: ["1", "no edema"]}),
    ],
)
def test_answers_to_a_question_are_read(question, answers):
    for expected, spellings in answers.items():
        for answer in spellings:
            found = normalize_answer(answer, "other", question)
            assert (found if found in ("yes", "no") else None) == expected, answer
            assert normalize_answer(found, "other", question) == found
            asked = Question(id="1", image="a.png", type="other", question=question, answer=answer)
            assert asked.true_answer == found
            assert asked.closed == (expected is not None)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"),
        (0.0, "0"),
        (0.5, "0.5"),
        (True, "true"),
        (np.int8(1), "1"),
        (np.float32(0), "0"),
        (np.bool_(False), "false"),
        (Decimal("1.00"), "1"),
        (["yes"], "yes"),
        (np.array(["yes"]), "yes"),
        ([["yes"]], "yes"),
        (["yes", "yes"], "yes"),
        (["edema", "mass"], "edema, mass"),
        ("none", "none"),
        ([], None),
        (None, None),
        (float("nan"), None),
    ],
)
def test_answers_of_any_type_become_text(value, text):
    assert answer_text(value) == text
    if not isinstance(value, str | np.ndarray) and text is not None:
        assert Question(id="1", image="a.png", type="other", question="Is it?", answer=value).answer == text


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
    "Effusion?",
    "Is there a mass or nodule?",
    "Is effusion present or absent?",
    "Is a left or right effusion seen?",
    "Was there an effusion?",
    "¿Hay derrame pleural?",
    "¿Está agrandado el corazón?",
    "Se observa neumotórax",
    "Y a-t-il un épanchement ?",
    "Est-ce que le cœur est élargi ?",
    "La silhouette cardiaque est-elle élargie ?",
    "Gibt es einen Pleuraerguss?",
    "Ist das Herz vergrößert?",
    "Zeigt das Bild einen Erguss?",
    "C'è un versamento?",
    "Há derrame pleural?",
    "Is er een pneumothorax?",
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
    "left or right?",
    "Is it on the left or the right side?",
    "Is the heart enlarged or normal?",
    "Is the lesion in the left or right lung?",
    "Are the lungs normal or hyperinflated?",
    "Does the heart look enlarged or normal?",
    "Is this a PA or an AP film?",
    "Is this a T1 or T2 image?",
    "Is the effusion loculated or layering?",
    "¿Es normal o anormal?",
    "¿Dónde está la lesión?",
    "¿Qué se observa?",
    "Où est la lésion ?",
    "Quelle est l'incidence ?",
    "Qu'est-ce que c'est ?",
    "Le cœur est-il normal ou élargi ?",
    "Wo ist der Erguss?",
    "Was ist zu sehen?",
    "Ist das Herz normal oder vergrößert?",
    "Effusion on which side?",
]


@pytest.mark.parametrize(("question", "closed"), [*((q, True) for q in CLOSED), *((q, False) for q in OPEN)])
def test_the_form_of_a_question(question, closed):
    assert asks_yes_or_no(question) is closed


def test_a_choice_is_never_closed():
    def asked(question, answer):
        return Question(id="1", image="a.png", type="other", question=question, answer=answer)

    assert question_form("Is the heart enlarged or normal?") == "choice"
    assert not asked("Is the heart enlarged or normal?", "yes").closed
    # Here only the answer tells.
    for question in ("Is there effusion on the left or right?", "Is the effusion loculated or layering?"):
        assert asked(question, "yes").closed
        assert not asked(question, "left").closed


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
def test_inverting_operators(question, wording, operator):
    assert inverting_operator(question, wording) == operator


def test_the_embedded_world_has_no_inverting_wording_and_every_form_is_recognized():
    # By construction, all wordings of a question have the same answer, and its type says whether it is closed.
    questions = load_questions(WORLD / "questions.jsonl")
    pairs = [(q.question, p.text) for q in questions for p in q.paraphrases]
    assert len(pairs) > 8000
    assert [pair for pair in pairs if inverting_operator(*pair)] == []
    texts = [(q.closed, text) for q in questions for text in (q.question, *(p.text for p in q.paraphrases))]
    assert [text for closed, text in texts if asks_yes_or_no(text) is not closed] == []


def test_every_operator_is_listed():
    assert operators_of("Can you rule out the absence of effusion?") == ("rule_out", "absent")


def test_inverting_wordings_are_never_measured():
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


SAID = {
    "yes": [
        "Yes",
        "**Yes**",
        "yes.",
        "True",
        "Yes, there is a small left pleural effusion.",
        "Yes. No other abnormality is seen.",
        "Yes - although a pneumothorax cannot be excluded.",
        "**Answer:** Yes",
        "The answer is yes.",
        "Final answer: **Yes**",
        "Based on the image, yes.",
        "Is there an effusion? Yes, with no pneumothorax.",
        "There is a small left pleural effusion.",
        "There’s a small effusion.",
        "Yep.",
        "Sí, hay derrame.",
        "Oui.",
        "Ja, ein kleiner Erguss.",
        "There are multiple nodules in both lungs.",
        "There appears to be a small effusion.",
        "There is clear evidence of a left-sided effusion.",
        "The chest X-ray shows evidence of cardiomegaly.",
        "A pleural effusion is present on the left.",
        "An opacity is clearly seen in the right lower lobe.",
        "The lungs are clear on the left, but there is an opacity on the right.",
        "There is a small effusion, which may be due to heart failure.",
        "There is no doubt that an effusion is present.",
        "There is an effusion. This is not medical advice; please consult a doctor.",
        "Positive for pneumothorax.",
    ],
    "no": [
        "No",
        "no.",
        "**No.**",
        "False.",
        "No, there is no evidence of pneumothorax.",
        "No evidence of pneumothorax.",
        "No pleural effusion is present.",
        "My answer is: no",
        "There is no evidence of pneumothorax.",
        "There is, however, no evidence of pneumothorax.",
        "There is not any sign of effusion.",
        "There does not appear to be a pneumothorax.",
        "I don’t see a nodule.",
        "The image doesn't show signs of edema.",
        "The lungs are clear and there is no effusion.",
        "The lungs are clear without focal consolidation.",
        "Pneumothorax is absent.",
        "Negative for fracture.",
        "The chest is free of effusion.",
        "None.",
        "Nope",
        "Non, pas d'épanchement.",
        "Nein.",
        "Not seen.",
        "An effusion is unlikely.",
        "Is there evidence of an effusion? There is none.",
        "The heart size is normal, not enlarged.",
    ],
    None: [
        "",
        "...",
        "Normal",
        "Unremarkable.",
        "The heart is within normal limits.",
        "The lungs are clear.",
        "The radiograph is not normal.",
        "There is a normal cardiac silhouette.",
        "The image shows a frontal chest radiograph.",
        "The image is a chest X-ray of an adult patient.",
        "It is not possible to determine from this image.",
        "I cannot tell.",
        "I can't provide a diagnosis, but there is an opacity.",
        "I am unable to see any effusion.",
        "I do not know.",
        "It is unclear whether there is an effusion.",
        "It is not clear if an effusion is present.",
        "A small effusion cannot be excluded.",
        "There is no effusion seen, but a small one cannot be excluded.",
        "There may be a small effusion.",
        "There is a possible opacity in the left lung.",
        "To tell whether there is an effusion, look at the costophrenic angles.",
        "Yes and no.",
        "Yes/No",
        "N/A",
        "No image was provided.",
        "There is a consolidation but no effusion.",
        "There is cardiomegaly. There is no effusion.",
        "Northern representation yesterday",
        "Is there evidence of an effusion?",
        "Left lower lobe",
    ],
}


@pytest.mark.parametrize(("text", "said"), [(text, said) for said, texts in SAID.items() for text in texts])
def test_generated_answers_are_parsed(text, said):
    assert parse_yes_no(text) == said
    assert parse_yes_no(f"  {text.upper()}\n") == said


@pytest.mark.parametrize(
    ("generated", "answer", "type_", "begins"),
    [
        ("Yes", "yes", "presence", True),
        ("**Yes**, there is.", "yes", "presence", True),
        ("YES\nThere is.", "Yes, small.", "presence", True),
        ("yesterday", "yes", "presence", False),
        ("No", "yes", "presence", False),
        ("N/A", "no", "presence", False),
        ("There is: yes", "yes", "presence", False),
        ("", "yes", "presence", False),
        ("Mild effusion.", "mild", "level", True),
        ("Mildly", "mild", "level", False),
        ("mild/moderate", "mild", "level", False),
        ("moderate", "moderate to severe", "level", False),
        ("Moderate  to\nSevere, perhaps", "moderate to severe", "level", True),
        ("Left-sided", "left", "location", True),
        ("Right lower lobe (small)", "right lower-lobe", "location", True),
        ("The left", "left", "location", False),
        ("P.A. view of the chest", "pa", "view", True),
        ("Postero-anterior (PA).", "pa", "view", True),
        ("AP", "pa", "view", False),
        ("Frontal", "frontal.", "other", True),
        ("frontal", "...", "other", False),
    ],
)
def test_a_text_begins_with_the_whole_answer(generated, answer, type_, begins):
    assert begins_with_answer(generated, answer, type_) is begins

"""Free-form wordings: what was written by hand asks for the same as its canonical question, and for nothing twice."""

import json
import re
from collections import Counter

import numpy as np
import pytest

from interp.demo.free_form import CANONICAL, free_form_row, free_form_wordings
from interp.demo.phrasings import all_texts
from interp.paths import WORLD
from interp.questions.canonical import normalize
from interp.questions.files import load_questions
from interp.questions.polarity import inverting_operator

WORDINGS = [*free_form_wordings(tuning=True), *free_form_wordings(tuning=False)]
NAMES = {
    "cardiomegaly": r"cardiomegaly|(heart|cardiac|silhouette).*(enlarge|big|large|oversized|increased|size)"
    r"|(enlarge|big|increased).*(heart|cardiac)",
    "effusion": r"effusion|(fluid|water)",
    "pneumothorax": r"pneumothorax|\bPTX\b|lungs?\b.*collapse|collapsed? lung"
    r"|\bair\b.*(pleural|lung|them)|pleural.*\bair\b",
    "opacity": r"opaci|opaque|(spot|shadow|blotch|smudge|patch)",
    "abnormality": r"abnormal|patholog|wrong|\boff\b|problem|\bup with\b|funny|messed up|shouldn't be there",
}
"""Topic -> what a wording must say to ask about it."""


def key(text):
    """A wording without case, punctuation and spacing."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def test_each_topic_has_as_many_wordings_of_each_register_and_every_phenomenon():
    assert len(WORDINGS) == 300
    by_register = Counter((w.topic, w.register) for w in WORDINGS)
    assert by_register == {(topic, register): 30 for topic in CANONICAL for register in ("formal", "casual")}
    for phenomenon, least in (
        ("lexical_substitution", 6),
        ("syntactic_restructuring", 8),
        ("negation_pattern", 6),
        ("scope_quantification", 5),
        ("specificity_modulation", 5),
    ):
        counts = Counter((w.topic, w.register) for w in WORDINGS if w.phenomenon == phenomenon)
        assert set(counts) == set(by_register)
        assert min(counts.values()) >= least
    assert len({w.phenomenon for w in WORDINGS}) == 5


def test_no_wording_is_a_template_or_occurs_twice():
    taken = {key(text) for text in all_texts()} | {key(text) for text in CANONICAL.values()}
    texts = [key(w.text) for w in WORDINGS]
    assert len(set(texts)) == len(texts)
    assert not taken & set(texts)


@pytest.mark.parametrize("topic", CANONICAL)
def test_every_wording_names_its_topic_and_no_other_finding(topic):
    own = [w.text for w in WORDINGS if w.topic == topic]
    assert [text for text in own if not re.search(NAMES[topic], text, re.IGNORECASE)] == []
    others = ("cardiomegaly", "effusion", "pneumothorax", "opacity")
    assert [text for text in own for other in others if other != topic and other in text.lower()] == []


def test_no_wording_inverts_the_question():
    for wording in WORDINGS:
        assert inverting_operator(CANONICAL[wording.topic], wording.text) is None, wording.text
    assert all(normalize(text) == text for text in CANONICAL.values())


def test_a_third_is_for_tuning_and_stays_so():
    """The split depends on the text alone. sha256sum of these four: 38cffdf3, c6d77111, 4a59cda7, 768c20bc."""
    shown, never = ({w.text for w in free_form_wordings(tuning)} for tuning in (True, False))
    assert 0.25 < len(shown) / len(WORDINGS) < 0.42
    assert not shown & never
    assert {"Is the heart too big?", "Effusion or no effusion?"} <= shown
    assert {"Pleural effusion: present on this film?", "Isn't that a shadow on the lung?"} <= never


def test_the_embedded_world_asks_every_closed_test_question_in_unseen_free_form():
    asked = load_questions(WORLD / "questions-free-form.jsonl")
    plain = {q.id: q for q in load_questions(WORLD / "questions.jsonl", split="test") if q.closed}
    assert [q.id for q in asked] == list(plain)
    unseen = {w.text: w for w in free_form_wordings(tuning=False)}
    topic_of = {text: topic for topic, text in CANONICAL.items()}
    answers = {topic: Counter() for topic in CANONICAL}
    for question in asked:
        same = plain[question.id]
        assert (question.answer, question.image, question.patient, question.boxes, question.split) == (
            *(same.answer, same.image, same.patient, same.boxes),
            "test",
        )
        assert question.closed
        topic = topic_of[question.question]
        assert (topic == "abnormality") == (same.type == "abnormality")
        if topic != "abnormality":
            assert all(re.search(NAMES[topic], p.text, re.IGNORECASE) for p in same.paraphrases), same.paraphrases
        written = [unseen[p.text] for p in question.paraphrases]
        assert {w.topic for w in written} == {topic}
        assert [(p.register_, p.phenomenon) for p in question.paraphrases] == [
            (w.register, w.phenomenon) for w in written
        ]
        assert Counter(p.register_ for p in question.paraphrases) == {"formal": 2, "casual": 2}
        answers[topic][question.answer] += 1
    # Half of the answers are yes: within four standard errors.
    for topic, counts in answers.items():
        yes, n = counts["yes"], counts.total()
        assert abs(yes / n - 0.5) < 2 / np.sqrt(n), topic
    assert {p.text for q in asked for p in q.paraphrases} == set(unseen)


def test_a_row_in_free_form_keeps_everything_but_its_words():
    row = json.loads((WORLD / "questions.jsonl").read_text().splitlines()[0])
    found = free_form_row(row, "effusion", np.random.default_rng(0))
    assert found["question"] == "Is there pleural effusion?"
    assert "register" not in found
    kept = {"id", "image", "patient", "type", "answer", "boxes", "split"}
    assert {name: found[name] for name in kept} == {name: row[name] for name in kept}
    assert len({p["text"] for p in found["paraphrases"]}) == 4

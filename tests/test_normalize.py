"""Prompt normalization: it gives hand-written canonical forms, is idempotent, and never changes the polarity."""

import itertools
import re

import numpy as np
import pytest
from test_paraphrase import NOT_UNDERSTOOD, lexicon_questions

from interp.demo import phrasings
from interp.questions.canonical import normalize
from interp.questions.paraphrase import paraphrases
from interp.questions.parse import parse_question

CANONICAL = [
    ("Is there radiographic evidence of cardiac enlargement?", "Is there cardiomegaly?"),
    ("Got a big heart?", "Is there cardiomegaly?"),
    ("Please determine whether an effusion is identified.", "Is there pleural effusion?"),
    ("do you see a collapsed lung on the left ?", "Is there pneumothorax on the left?"),
    ("Is atelectasis seen at the left base in this image?", "Is there atelectasis at the left base?"),
    ("Is there opacities in the right upper lobe", "Is there a lung opacity in the right upper lobe?"),
    ("Are there any rib fractures?", "Is there a rib fracture?"),
    ("Any support device here?", "Are there support devices?"),
    ("Does this pic show medical devices?", "Are there support devices?"),
    ("Hey, could you please tell me whether there is edema, thanks!", "Is there pulmonary edema?"),
    ("So is there TB or not?", "Is there tuberculosis?"),
    ("Is there any Tracheal Deviation?", "Is there tracheal deviation?"),
    ("Are pleural plaques present?", "Are there pleural plaques?"),
    ("Is there a opaque area?", "Is there an opaque area?"),
    ("Any small nodule in the left lung?", "Is there a small nodule in the left lung?"),
    # A place outside the lungs makes it another finding.
    ("Is there a mass in the mediastinum?", "Is there a mass in the mediastinum?"),
    ("Do you see a nodule in the thyroid?", "Is there a nodule in the thyroid?"),
    ("Is there a pericardial effusion?", "Is there pericardial effusion?"),
    ("Are there abnormal findings?", "Is there an abnormality?"),
    ("Anything wrong here?", "Is there an abnormality?"),
    ("Does this look bad?", "Is there an abnormality?"),
    ("Do you see anything abnormal in the left lung?", "Is there an abnormality in the left lung?"),
    # All other questions lose only extra spaces, politeness and filler.
    ("  is the   chest x-ray normal ", "Is the chest x-ray normal?"),
    ("Please, what view is this??", "What view is this?"),
    ("Kindly grade the severity of the effusion.", "Grade the severity of the effusion?"),
    ("Has the effusion improved?", "Has the effusion improved?"),
    ("is there effusion or pneumothorax?", "Is there effusion or pneumothorax?"),
    ("could you tell me what view this is", "What view this is?"),
    ("", ""),
    ("  ", ""),
    ("?", "?"),
    ("please ?", "please ?"),
    ("是否有胸腔积液", "是否有胸腔积液?"),
]


@pytest.mark.parametrize(("text", "expected"), CANONICAL)
def test_canonical_forms(text, expected):
    assert normalize(text) == expected


NEGATED = [
    ("Is there no pleural effusion?", "Is there no pleural effusion?"),
    ("so, is there no effusion please?", "Is there no effusion?"),
    ("Is there absence of  pneumothorax?", "Is there absence of pneumothorax?"),
    ("please rule out pneumonia.", "Rule out pneumonia?"),
    ("Can pneumothorax be excluded?", "Can pneumothorax be excluded?"),
    ("Are the lungs free of consolidation", "Are the lungs free of consolidation?"),
    ("Is the chest without effusion?", "Is the chest without effusion?"),
    ("Isn't there an effusion?", "Isn't there an effusion?"),
    ("Isn’t there an effusion?", "Isn't there an effusion?"),
    ("Hey, is the image negative for fracture?", "Is the image negative for fracture?"),
    ("Is pneumothorax absent?", "Is pneumothorax absent?"),
    ("Do you see nothing wrong?", "Do you see nothing wrong?"),
    ("Is nothing abnormal here?", "Is nothing abnormal here?"),
    ("Is the study not abnormal?", "Is the study not abnormal?"),
    ("Are there no abnormalities?", "Are there no abnormalities?"),
    ("Is there not any effusion at all?", "Is there not any effusion at all?"),
]


@pytest.mark.parametrize(("text", "expected"), NEGATED)
def test_negated_questions_keep_their_words(text, expected):
    assert normalize(text) == expected


@pytest.mark.parametrize("text", [q for q in NOT_UNDERSTOOD if len(q) > 10])
def test_what_is_not_understood_keeps_its_words(text):
    assert re.findall(r"\w+", normalize(text).lower()) == re.findall(r"\w+", text.lower().replace("’", "'"))


def world_texts(type_: str, finding: str | None) -> set[str]:
    return {w.text for held_out in (False, True) for w in phrasings.wordings(type_, finding, held_out)}


@pytest.mark.parametrize(
    ("type_", "finding", "before", "after"),
    [
        # Not merged: "present, or is it not identified", "in either hemithorax", words too ambiguous for the lexicon.
        ("presence", "cardiomegaly", 96, 5),
        ("presence", "effusion", 96, 7),
        ("presence", "pneumothorax", 96, 6),
        ("presence", "opacity", 96, 11),
        ("abnormality", None, 22, 1),
        # Open questions have no canonical form and lose only "Please", "Kindly" and "So".
        ("view", None, 16, 16),
        ("type", None, 16, 16),
        ("level", "cardiomegaly", 48, 45),
        ("location", "cardiomegaly", 48, 48),
    ],
)
def test_how_many_wordings_of_the_embedded_world_remain(type_, finding, before, after):
    texts = world_texts(type_, finding)
    assert (len(texts), len({normalize(text) for text in texts})) == (before, after)


def test_two_questions_of_the_embedded_world_never_share_a_form():
    owner: dict[str, tuple[str, str]] = {}
    for type_, finding in [*itertools.product(("presence", "level"), phrasings.TERMS), ("abnormality", None)]:
        for text in world_texts(type_, finding):
            # Lay words of the world may fit several findings, but no canonical form may belong to two questions.
            assert owner.setdefault(normalize(text), (type_, finding)) == (type_, finding), text


def test_all_rule_based_paraphrases_have_the_same_form():
    for question in lexicon_questions():
        if parse_question(question).kind == "presence" and parse_question(question).term is not None:
            assert {normalize(p.text) for p in paraphrases(question, 99, 0)} == {normalize(question)}


VOCABULARY = (
    "is are there any a an the evidence of effusion effusions opacity collapsed lung in on left base this image x-ray "
    "here at all or not please kindly so hey could you tell me whether if seen present mass nodules shadow do see got "
    "does it show even little bit degree abnormality wrong anything normal TB ? . , ! thanks thank — é ſo İ ŉ ß hi no"
)
WORDS = VOCABULARY.split()


def test_normalization_is_idempotent():
    rng = np.random.default_rng(0)
    texts = [text for text, _ in CANONICAL + NEGATED] + NOT_UNDERSTOOD + lexicon_questions()
    texts += [" ".join(rng.choice(WORDS, size=rng.integers(1, 10))) for _ in range(5000)]
    texts += ["".join(map(chr, rng.integers(32, 0x250, size=rng.integers(0, 30)))) for _ in range(1000)]
    texts += [
        "so " * 10_000,
        "please " * 10_000 + "x",
        "Is there " + "x" * 10_000,
        "?" * 10_000 + "a",
        "is there " * 30 + "so",
    ]
    for text in texts:
        once = normalize(text)
        assert normalize(once) == once, text
        assert once == " ".join(once.split())


def test_a_random_negation_never_disappears():
    rng = np.random.default_rng(1)
    for _ in range(3000):
        words = [*rng.choice(WORDS, size=rng.integers(1, 8))]
        words.insert(int(rng.integers(len(words) + 1)), str(rng.choice(["no", "without", "never", "isn't"])))
        kept = normalize(" ".join(words)).lower().split()
        assert any(word.strip("?.,!") in ("no", "without", "never", "isn't") for word in kept), words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Any fluid around the lungs?", "Is pleural effusion present in this chest radiograph?"),
        ("Got a big heart?", "Is cardiomegaly present in this chest radiograph?"),
        ("Is there a nodule?", "Is a lung nodule present in this chest radiograph?"),
        ("Any support device here?", "Are support devices present in this chest radiograph?"),
        ("do you see a collapsed lung on the left ?", "Is pneumothorax present on the left in this chest radiograph?"),
        ("Anything wrong here?", "Is an abnormality present in this chest radiograph?"),
        ("Please, what view is this??", "What view is this?"),
        ("Is there no pleural effusion?", "Is there no pleural effusion?"),
    ],
)
def test_the_published_normal_form(text, expected):
    """ "Is [finding] present in this chest radiograph?" (PSF-Med, arXiv 2602.21428)."""
    assert normalize(text, "psf-med") == expected
    assert normalize(expected, "psf-med") == expected
    # Both forms ask for the same.
    assert normalize(expected) == normalize(text)

"""Rule-based paraphrases: which questions are understood, and that every wording asks for the same."""

import re
import time

import pytest

from interp.demo import phrasings
from interp.questions.frames import FRAMES
from interp.questions.lexicon import TERMS, find_term
from interp.questions.paraphrase import add_paraphrases, paraphrases
from interp.questions.parse import parse_question
from interp.questions.registers import register_of
from interp.questions.schema import Paraphrase, Question
from interp.runtime.errors import InputError

ALL = 99
PLACES = ("", " in the left lung", " at the right base", " of the left hemidiaphragm")

NOT_UNDERSTOOD = [
    # Negated: another wording may invert the answer.
    "Is there no pleural effusion?",
    "Is there absence of pneumothorax?",
    "Can you rule out pneumonia?",
    "Is pneumothorax ruled out?",
    "Is pneumonia excluded?",
    "Are the lungs free of consolidation?",
    "Is the chest without effusion?",
    "Isn't there an effusion?",
    "Isn’t there an effusion?",
    "Isnt there an effusion?",
    "Is pneumothorax not present?",
    "Is the image negative for fracture?",
    "Is there a lack of consolidation?",
    "Is pneumothorax absent?",
    "Is cardiomegaly present, or is it not identified?",
    # Several findings, or one that is part of a larger question.
    "Is there effusion or pneumothorax?",
    "Is there pneumonia and effusion?",
    "Is there pneumonia with effusion?",
    "Is there effusion/pneumothorax?",
    "Is there an effusion? Is it large?",
    "Is there one nodule?",
    "Is there mass effect?",
    # Comparisons.
    "Has the effusion improved?",
    "Is the effusion larger than before?",
    "Is there a new effusion?",
    "Is there increased effusion?",
    "Is there any residual pneumothorax?",
    "Is there resolution of the pneumothorax?",
    # Not about presence, although they look like it.
    "Is the trachea midline?",
    "Is the trachea seen?",
    "Is the heart normal?",
    "Is this AP or PA?",
    "Does the patient have a history of pneumonia?",
    "Is there suspicion of pneumonia?",
    "Are the lungs clear?",
    "What type of imaging is this?",
    "What abnormalities are seen in this image?",
    # Hardly questions.
    "",
    " ",
    "?",
    "Please?",
    "so",
    "is there",
    "Is there a?",
    "Ist ein Erguss zu sehen?",
    "是否有胸腔积液？",
    "Is there a ☃?",
]


@pytest.mark.parametrize("question", NOT_UNDERSTOOD)
def test_uncertain_questions_are_left_alone(question):
    assert paraphrases(question, ALL, 0) == []


@pytest.mark.parametrize(
    ("question", "kind", "finding", "place"),
    [
        ("Is there a pleural effusion?", "presence", "pleural effusion", ""),
        ("is there evidence of an effusion in this image?", "presence", "pleural effusion", ""),
        ("Are there any pleural effusions?", "presence", "pleural effusion", ""),
        ("Does the patient have a broken rib?", "presence", "rib fracture", ""),
        ("Does the chest radiograph show signs of TB?", "presence", "tuberculosis", ""),
        ("Is a collapsed lung visible on the left?", "presence", "pneumothorax", "on the left"),
        (
            "Is atelectasis seen at the left lung base on this x-ray?",
            "presence",
            "atelectasis",
            "at the left lung base",
        ),
        ("Is there fluid in the lungs?", "presence", "pulmonary edema", ""),
        ("Is there partial lung collapse?", "presence", "atelectasis", ""),
        ("Is there an opacity of the right upper lobe?", "presence", "lung opacity", "of the right upper lobe"),
        ("So is there pneumonia or not?", "presence", "pneumonia", ""),
        ("Could you tell me whether there is a hernia?", "presence", "hernia", ""),
        ("Is there a mass in the mediastinum?", "presence", None, "in the mediastinum"),
        ("Is there any tracheal deviation?", "presence", None, ""),
        ("Is there any abnormality?", "abnormality", None, ""),
        ("Is something wrong in the left lung?", "abnormality", None, "in the left lung"),
        ("Is the image abnormal?", "abnormality", None, ""),
        ("Is the chest x-ray normal?", "normal", None, ""),
        ("Does this image look normal?", "normal", None, ""),
        ("What view is this image taken?", "view", None, ""),
        ("what level is the atelectasis?", "level", "atelectasis", ""),
        ("How bad is the edema?", "level", "pulmonary edema", ""),
        ("where in the image is the opacity located?", "location", "lung opacity", ""),
        ("Which side is the effusion on?", "side", "pleural effusion", ""),
        ("What type of fracture is it?", "type", "fracture", ""),
    ],
)
def test_questions_are_parsed(question, kind, finding, place):
    parsed = parse_question(question)
    assert parsed is not None
    assert (parsed.kind, parsed.term.name if parsed.term else None, parsed.place) == (kind, finding, place)
    assert paraphrases(question, 2, 0)


def lexicon_questions() -> list[str]:
    """Plain questions of every kind, about every name in the lexicon."""
    questions = []
    for name in (name for term in TERMS for name in term.names):
        be = "are" if name.grammar == "plural" else "is"
        for place in PLACES:
            questions += [
                f"{be.title()} there {name.phrase}{place}?",
                f"What is the severity of the {name.text}{place}?",
                f"Where {be} the {name.text}{place}?",
            ]
        questions += [f"Which side {be} the {name.text} on?", f"What type of {name.text} {be} it?"]
    return questions


def test_every_paraphrase_asks_for_the_same():
    checked = 0
    for question in lexicon_questions():
        parsed = parse_question(question)
        assert parsed is not None, question
        for paraphrase in paraphrases(question, ALL, 1):
            again = parse_question(paraphrase.text)
            assert again is not None, paraphrase.text
            assert (again.kind, again.term, again.place) == (parsed.kind, parsed.term, parsed.place), paraphrase.text
            assert find_term(paraphrase.text).term == find_term(question).term, paraphrase.text
            assert parsed.place in paraphrase.text
            checked += 1
    assert checked > 20_000


def test_a_normal_question_keeps_its_polarity():
    for question in ("Is the chest x-ray normal?", "Does this image look normal?", "Is this a normal radiograph?"):
        texts = [p.text for p in paraphrases(question, ALL, 0)]
        assert len(texts) >= 5
        assert all("normal" in text and "abnormal" not in text for text in texts)


def test_an_abnormality_question_never_asks_for_normality():
    for question in ("Is there any abnormality in the left lung?", "Anything wrong in the left lung?"):
        texts = [p.text for p in paraphrases(question, ALL, 0)]
        assert len(texts) >= 10
        assert all(re.search(r"abnormal|(some|any)thing (wrong|off)", text, re.IGNORECASE) for text in texts)
        assert all("in the left lung" in text for text in texts)


def test_no_frame_and_no_paraphrase_contains_a_negation():
    negation = re.compile(r"\b(no|not|without|absen\w+|free of|exclude\w*|rule out|nor|never)\b|n't", re.IGNORECASE)
    assert not [frame for frames in FRAMES.values() for frame in frames if negation.search(frame.text)]
    texts = [p.text for question in lexicon_questions()[::7] for p in paraphrases(question, ALL, 0)]
    assert not [text for text in texts if negation.search(text)]


PLURALS = (
    "|".join(name.text for term in TERMS for name in term.names if name.grammar == "plural")
    + "|nodules|pleural plaques"
)
BAD_GRAMMAR = re.compile(
    rf"""
    \b a \s [aeio]                                                                # a opacity
    | \b an \s [^aeiou]                                                           # an fracture
    | \b (?: a | an | any | the ) \s (?: a | an | any | the | some ) \b           # any a fracture
    | \b (?: is | does ) \s (?: there \s )? (?: any \s | the \s )? (?: {PLURALS} ) \b  # is there nodules
    | \b are \s (?: there \s )? an? \s                                            # are there a fracture
    | \s\s | \s\? | \?\? | [{{}}]
    """,
    re.VERBOSE | re.IGNORECASE,
)


def test_paraphrases_are_grammatical():
    for question in [
        *lexicon_questions(),
        "Is there a opaque area?",
        "Are there nodules?",
        "Are there pleural plaques?",
    ]:
        for paraphrase in paraphrases(question, ALL, 2):
            assert not BAD_GRAMMAR.search(paraphrase.text), paraphrase.text
            assert paraphrase.text[0].isupper()
            assert paraphrase.text.endswith(("?", "."))


@pytest.mark.parametrize("bad", ["Do you see a opacity?", "Got an fracture?", "Any a mass?", "Is there nodules?"])
def test_the_grammar_check_finds_mistakes(bad):
    assert BAD_GRAMMAR.search(bad)


def test_grammar_mistakes_of_the_question_are_not_copied():
    for question in ("Is there a opacity?", "Is there nodules?", "Any a mass here?"):
        reframed = [p for p in paraphrases(question, ALL, 2) if p.phenomenon != "lexical_substitution"]
        assert len(reframed) >= 10
        assert not [p.text for p in reframed if BAD_GRAMMAR.search(p.text)]


def test_plural_noun_phrases_agree():
    texts = {p.text for p in paraphrases("Are there pleural plaques?", ALL, 0)}
    assert {"Are pleural plaques identified on the examination?", "Are there pleural plaques at all?"} <= texts
    texts = {p.text for p in paraphrases("Is there a opaque area?", ALL, 0)}
    assert "Do you see an opaque area?" in texts


@pytest.mark.parametrize(
    ("question", "expected", "phenomenon", "register"),
    [
        ("Is there cardiomegaly?", "Is there a big heart?", "lexical_substitution", "casual"),
        ("Is there a big heart?", "Is there cardiomegaly?", "lexical_substitution", "formal"),
        ("Are there any TB signs?", None, None, None),
        ("Is there any pneumonia here?", "Any pneumonia here?", "scope_quantification", "casual"),
        ("Is there pneumonia?", "Is there pneumonia at all?", "scope_quantification", "casual"),
        ("Is there pneumonia?", "Is there evidence of any degree of pneumonia?", "scope_quantification", "formal"),
        ("Is there pneumonia?", "Do you see pneumonia?", "syntactic_restructuring", "casual"),
        (
            "Is there pneumonia?",
            "Please determine whether pneumonia is identified.",
            "syntactic_restructuring",
            "formal",
        ),
        ("Is a broken bone seen in the image?", "Is a fracture seen in the image?", "lexical_substitution", "formal"),
    ],
)
def test_phenomena_and_registers(question, expected, phenomenon, register):
    found = {p.text: (p.phenomenon, p.register_) for p in paraphrases(question, ALL, 0)}
    if expected is None:
        assert not found
    else:
        assert found[expected] == (phenomenon, register)


def test_a_name_with_a_place_gets_no_second_place():
    texts = [p.text for p in paraphrases("Is there a pleural effusion on the left?", ALL, 0)]
    assert not [text for text in texts if "fluid around the lung" in text or "in the pleural space" in text]


def test_paraphrases_differ_from_each_other_and_from_the_question():
    def words(text: str) -> str:
        return " ".join(re.findall(r"\w+", text.lower()))

    for question in [*lexicon_questions()[::5], "IS THERE PNEUMONIA AT ALL", "do you see pneumonia ??"]:
        texts = [words(p.text) for p in paraphrases(question, ALL, 0)]
        assert len(set(texts)) == len(texts)
        assert words(question) not in texts


@pytest.mark.parametrize("seed", range(5))
def test_paraphrases_have_both_registers_and_several_phenomena(seed):
    for question in lexicon_questions()[::3]:
        two, four = paraphrases(question, 2, seed), paraphrases(question, 4, seed)
        assert {p.register_ for p in two} == {"formal", "casual"}
        assert [p.register_ for p in four[::2]] == [two[0].register_] * 2
        assert two == four[:2]
    assert len({p.phenomenon for p in paraphrases("Is there cardiomegaly?", 4, seed)}) == 3


def test_the_first_paraphrase_changes_the_register():
    for seed in range(5):
        assert paraphrases("Please determine whether cardiomegaly is identified.", 1, seed)[0].register_ == "casual"
        assert paraphrases("Got a big heart here?", 1, seed)[0].register_ == "formal"


def test_paraphrases_depend_only_on_seed_and_text():
    question = "Is there a pleural effusion in the left lung?"
    assert paraphrases(question, 5, 7) == paraphrases(question, 5, 7)
    assert len({paraphrases(question, 5, seed)[0].text for seed in range(20)}) > 3
    # These are the same on all machines, unlike Python's own hash.
    assert [p.text for p in paraphrases("Is there pneumonia?", 2, 0)] == [
        "Any pneumonia here?",
        "Is there imaging evidence of pneumonia?",
    ]


def test_long_and_odd_texts_are_parsed_quickly():
    start = time.perf_counter()
    for text in ("?" * 100_000 + "a", "so " * 50_000, "a " * 50_000, "is there " * 20_000, "opacity " * 20_000):
        assert paraphrases(text, 3, 0) == []
    assert time.perf_counter() - start < 5


def test_registers_of_the_embedded_worlds_wordings():
    tagged = total = 0
    for type_ in phrasings.FRAMES:
        named = any("{x}" in str(frame) for frame in phrasings.FRAMES[type_]["formal"])
        for finding in phrasings.TERMS if named else (None,):
            for wording in [w for held_out in (False, True) for w in phrasings.wordings(type_, finding, held_out)]:
                found = register_of(wording.text)
                assert found in (None, wording.register), wording.text
                tagged += found is not None
                total += 1
    assert tagged / total > 0.9


def test_an_unclear_register_is_none():
    for text in ("Is there cardiomegaly?", "Is the lung clear?", "", "Got evidence of pneumonia?"):
        assert register_of(text) is None


def question(id_: str, text: str, **more) -> Question:
    return Question(id=id_, image="0.png", type="presence", question=text, answer="yes", **more)


def test_add_paraphrases_counts_what_happened():
    own = [Paraphrase(text="Any effusion?", register="casual")]
    before = [
        question("a", "Is there evidence of an effusion?"),
        question("b", "Is there an effusion?", paraphrases=own),
        question("c", "Has the effusion improved?"),
        question("d", "Is there pneumonia?", register="formal"),
    ]
    copies = [q.model_copy(deep=True) for q in before]
    after, report = add_paraphrases(before, 3, 0)
    assert report == (1, 2, 1)
    assert (report.given, report.made, report.not_understood) == (1, 2, 1)
    assert [len(q.paraphrases) for q in after] == [3, 1, 0, 3]
    assert [q.register_ for q in after] == ["formal", None, None, "formal"]
    assert after[1:3] == before[1:3]
    assert before == copies
    # The result can be written to and read from our own format.
    assert [Question.model_validate_json(q.model_dump_json(by_alias=True)) for q in after] == after


def test_add_paraphrases_to_nothing():
    assert add_paraphrases([], 3, 0) == ([], (0, 0, 0))


@pytest.mark.parametrize("count", [0, -1])
def test_fewer_than_one_paraphrase_is_refused(count):
    with pytest.raises(InputError, match=f"found {count} paraphrases per question, expected at least 1"):
        paraphrases("Is there pneumonia?", count, 0)


# --- the lexicon ---


def test_every_name_belongs_to_one_finding():
    names = [name.text.lower() for term in TERMS for name in term.names]
    assert len(set(names)) == len(names)
    for term in TERMS:
        for name in term.names:
            assert find_term(f"Do you see {name.phrase}?").term == term


@pytest.mark.parametrize(
    ("text", "name", "surface"),
    [
        ("Is there a pleural effusion?", "pleural effusion", "a pleural effusion"),
        ("Is there a pericardial effusion?", "pericardial effusion", "a pericardial effusion"),
        ("SUBCUTANEOUS EMPHYSEMA", "subcutaneous emphysema", "SUBCUTANEOUS EMPHYSEMA"),
        ("any Rib  Fractures here", "rib fracture", "Rib  Fractures"),
        ("opacities", "lung opacity", "opacities"),
        ("masses", "lung mass", "masses"),
        ("an enlarged heart enlargement", "cardiomegaly", "heart enlargement"),
        ("a lung opacity in a mass", "lung opacity", "a lung opacity"),
    ],
)
def test_find_term_takes_the_longest(text, name, surface):
    match = find_term(text)
    assert (match.term.name, match.surface) == (name, surface)
    assert text[match.start : match.end] == surface


@pytest.mark.parametrize("text", ["", "masseter", "hydro-pneumothorax", "effusionless", "maſs", "fıbrosis", "émass"])
def test_find_term_matches_whole_words_only(text):
    assert find_term(text) is None


@pytest.mark.parametrize(
    "text", ["lung fluid", "a lung collapse", "a spot on the lung", "a lung infection", "heart failure"]
)
def test_ambiguous_words_are_not_in_the_lexicon(text):
    assert find_term(text) is None

"""Makes paraphrases by rule, for questions about chest radiographs that come without any.

A question that is understood (`interp.questions.parse`) is put into other frames, with the names that the lexicon has
for its
finding; one that is not is left alone, since a wrong paraphrase looks like a flip of the model.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, zip_longest
from typing import Literal, NamedTuple

import numpy as np

from interp.questions.lexicon import Name, find_term
from interp.questions.parse import Asked, Kind, plain, read, without_filler
from interp.questions.schema import Paraphrase, Question
from interp.runtime.errors import InputError

Register = Literal["formal", "casual"]
REGISTERS: tuple[Register, Register] = ("formal", "casual")
SYNTAX, LEXICAL, SCOPE = "syntactic_restructuring", "lexical_substitution", "scope_quantification"
PHENOMENA = (SYNTAX, LEXICAL, SCOPE)


class Report(NamedTuple):
    """How many questions met which fate."""

    given: int
    """Had paraphrases already and were left as they are."""
    made: int
    """Were given paraphrases by rule."""
    not_understood: int
    """Were left without paraphrases."""


class WordingCount(NamedTuple):
    """How many paraphrases have one pair of tags."""

    phenomenon: str
    """What changed in them; "untagged" where it is not said."""
    register: str | None
    """Their tone, None where it is not said."""
    wordings: int
    """Number of them."""


class Frame(NamedTuple):
    """A sentence with slots for a noun phrase.

    {x} is the noun phrase with the determiner that it needs, {the} the one with "the", {bare} the one without any,
    {mass} the same where it is no counted thing; all of them, and {place} alone, end in the question's place.
    """

    register: Register
    """Its tone."""
    phenomenon: str
    """What changes when a plain question is put so: SYNTAX or SCOPE."""
    text: str
    """The words."""


def _frames(
    formal: tuple[str, ...],
    casual: tuple[str, ...],
    formal_scope: tuple[str, ...] = (),
    casual_scope: tuple[str, ...] = (),
) -> tuple[Frame, ...]:
    return (
        *(Frame("formal", SYNTAX, text) for text in formal),
        *(Frame("casual", SYNTAX, text) for text in casual),
        *(Frame("formal", SCOPE, text) for text in formal_scope),
        *(Frame("casual", SCOPE, text) for text in casual_scope),
    )


FRAMES: dict[Kind, tuple[Frame, ...]] = {
    "presence": _frames(
        formal=(
            "Is there imaging evidence of {x}?",
            "Does the examination demonstrate {x}?",
            "Does the study reveal {x}?",
            "{is} {x} identified on the examination?",
            "{is} {x} appreciated on the current study?",
            "Is the presence of {x} appreciated?",
            "Please determine whether {x} {is} identified.",
            "Please indicate whether {x} {is} demonstrated.",
        ),
        casual=(
            "Do you see {x}?",
            "Can you spot {x} here?",
            "Can you see {x} in this picture?",
            "{is} there {x} in this pic?",
            "Have we got {x} in this one?",
            "Got {x} here?",
            "Does this look like it has {x}?",
        ),
        formal_scope=(
            "Does the examination demonstrate any {bare}?",
            "{is} any {bare} identified on the examination?",
            "Is there evidence of any degree of {mass}?",
        ),
        casual_scope=(
            "Any {bare} here?",
            "{is} there {x} at all?",
            "Do you see any {bare} at all?",
            "Is there even a little {mass} here?",
        ),
    ),
    "abnormality": _frames(
        formal=(
            "Is there imaging evidence of an abnormality{place}?",
            "Does the examination demonstrate an abnormality{place}?",
            "Is an abnormality{place} identified on the current study?",
            "Please determine whether an abnormality{place} is identified.",
        ),
        casual=(
            "Do you see something wrong{place}?",
            "Can you spot something wrong{place} in this pic?",
            "Is something off{place} here?",
            "Have we got something wrong{place} here?",
        ),
        formal_scope=(
            "Does the examination demonstrate any abnormality{place}?",
            "Are any abnormal findings{place} identified on the examination?",
        ),
        casual_scope=(
            "Anything wrong{place} here?",
            "Is anything wrong{place} at all?",
            "Do you see anything off{place} at all?",
        ),
    ),
    "normal": _frames(
        formal=(
            "Is the examination within normal limits?",
            "Does the current study appear normal?",
            "Please determine whether the examination is normal.",
        ),
        casual=("Does this pic look normal?", "Does this one look normal to you?", "Does everything look normal here?"),
    ),
    "view": _frames(
        formal=(
            "Which radiographic projection was obtained?",
            "What is the projection of the examination?",
            "In which projection was the examination acquired?",
            "Please indicate the radiographic projection of the examination.",
        ),
        casual=("What view is this one?", "Which view is this pic?", "Which view have we got here?"),
    ),
    "level": _frames(
        formal=(
            "What is the severity of {the}?",
            "Please grade the severity of {the}.",
            "Please indicate the degree of severity of {the}.",
        ),
        casual=("How bad {is} {the}?", "How bad {does} {the} look?", "How bad {is} {the} in this pic?"),
    ),
    "location": _frames(
        formal=(
            "What is the location of {the} on the examination?",
            "Please indicate the location of {the}.",
            "Where {is} {the} demonstrated on the examination?",
        ),
        casual=("Where do you see {the}?", "Where {is} {the} in this pic?", "Where do you spot {the} here?"),
    ),
    "side": _frames(
        formal=(
            "What is the laterality of {the}?",
            "Please indicate the laterality of {the}.",
            "On which side {is} {the} demonstrated?",
        ),
        casual=(
            "Which side do you see {the} on?",
            "Which side {is} {the} on?",
            "What side have we got {the} on?",
        ),
    ),
    "type": _frames(
        formal=(
            "Which type of {bare} is demonstrated?",
            "Please indicate the type of {the}.",
            "What is the type of {the} on the examination?",
        ),
        casual=("What kind of {bare} do you see?", "What kind of {bare} have we got here?"),
    ),
}
"""The frames that a question of each kind can be put into; no frame holds a negation."""
_FORMAL = re.compile(
    r"""
    \b (?: demonstrat\w+ | identif\w+ | appreciated | reveal\w* | exhibit\w* | whether | kindly | indicate | evidence
      | radiographic\w* | examination | current\ study | consistent\ with | projection | laterality | severity
      | morphology | hemithorax | within\ normal\ limits ) \b
    """,
    re.VERBOSE | re.IGNORECASE,
)
_CASUAL = re.compile(
    r"""
    ^ (?: so | hey | any\w* | even | got ) \b
    | \b (?: pics? | got | spot | here | this\ one | at\ all | how\ bad | kind\ of | wrong | off
      | (?: do | can ) \ you \ see | looks? \ (?: like | bad ) | a \ little ) \b
    """,
    re.VERBOSE | re.IGNORECASE,
)


def register_of(text: str) -> Register | None:
    """The tone of a question: "formal" or "casual" where only words typical of that one occur, else None.

    Formal words are those of reports ("demonstrate", "identified", "whether"); casual ones those of speech ("pic",
    "got", "do you see") and the lexicon's lay names. "Is there cardiomegaly?" has neither.
    """
    text = plain(text)
    match = find_term(text)
    lay = match is not None and match.name in match.term.casual
    formal, casual = _FORMAL.search(text) is not None, lay or _CASUAL.search(text) is not None
    if formal == casual:
        return None
    return "formal" if formal else "casual"


def paraphrases(question: str, per_question: int, seed: int) -> list[Paraphrase]:
    """Up to `per_question` other wordings of `question`, none if it is not understood.

    They differ from it and from each other in more than case and marks, take the registers in turn (first the one
    that the question does not have) and the phenomena too, and depend on nothing but the three arguments.
    """
    if per_question < 1:
        raise InputError(f"found {per_question} paraphrases a question, expected at least 1.")
    asked = read(question)
    if asked is None:
        return []
    rng = _generator(question, seed)
    distinct: dict[str, Paraphrase] = {}
    for paraphrase in chain(_substitutions(question, asked), _reframed(asked, rng)):
        distinct.setdefault(_key(paraphrase.text), paraphrase)
    distinct.pop(_key(question), None)
    original = register_of(question)
    first = REGISTERS[int(rng.integers(2))] if original is None else _other(original)
    return _in_turn(list(distinct.values()), first, rng)[:per_question]


def add_paraphrases(questions: Iterable[Question], per_question: int, seed: int) -> tuple[list[Question], Report]:
    """Copies of the questions, with paraphrases where they had none, and what became of how many.

    The register of a question that is given paraphrases is filled in where it was absent and is clear.
    """
    result: list[Question] = []
    given = made = 0
    for question in questions:
        if question.paraphrases:
            given += 1
            result.append(question)
            continue
        new = paraphrases(question.question, per_question, seed)
        made += bool(new)
        tone = question.register_ or register_of(question.question)
        result.append(question.model_copy(update={"paraphrases": new, "register_": tone} if new else {}))
    return result, Report(given, made, len(result) - given - made)


def count_wordings(questions: Iterable[Question]) -> list[WordingCount]:
    """Numbers of paraphrases by phenomenon and register, in alphabetical order."""
    tags = Counter((p.phenomenon or "untagged", p.register_) for q in questions for p in q.paraphrases)
    ordered = sorted(tags.items(), key=lambda item: (item[0][0], item[0][1] or ""))
    return [WordingCount(*tag, count) for tag, count in ordered]


def _generator(question: str, seed: int) -> np.random.Generator:
    digest = hashlib.blake2b(f"{seed} {question}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def _other(register: Register) -> Register:
    return "casual" if register == "formal" else "formal"


def _key(text: str) -> str:
    """What two wordings share that differ in case, blanks and marks only."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _reframed(asked: Asked, rng: np.random.Generator) -> Iterator[Paraphrase]:
    """The question in every frame of its kind, each with one of the names of its register."""
    for frame in FRAMES[asked.kind]:
        names = _names(asked, frame.register)
        slots = _slots(asked, names[int(rng.integers(len(names)))])
        if "{mass}" not in frame.text or "mass" in slots:
            text = _sentence(frame.text.format_map(slots))
            yield Paraphrase(text=text, phenomenon=frame.phenomenon, register=frame.register, operator=None)


def _names(asked: Asked, register: Register) -> list[Name]:
    """What the question's noun phrase may be called in a frame of `register`; its own words wherever they fit."""
    if asked.term is None:
        return [asked.noun]
    lay = {name.text for name in asked.term.casual}
    if register == "casual":
        names = [*asked.term.casual, asked.noun]
    else:
        names = [asked.term.canonical, *asked.term.formal, *([] if asked.noun.text in lay else [asked.noun])]
    return [name for name in names if name == asked.noun or _fits(asked, name)]


def _fits(asked: Asked, name: Name) -> bool:
    """Whether a name that holds a place itself would meet a second one ("fluid around the lung on the left")."""
    return not name.holds_place or (asked.kind == "presence" and not asked.place)


def _slots(asked: Asked, name: Name) -> dict[str, str]:
    place = f" {asked.place}" if asked.place else ""
    bare, plural = name.text + place, name.grammar == "plural"
    slots = {
        "x": name.phrase + place,
        "the": f"the {bare}",
        "bare": bare,
        "place": place,
        "is": "are" if plural else "is",
        "does": "do" if plural else "does",
    }
    return slots | {"mass": bare} if name.grammar == "mass" and asked.term is not None else slots


def _substitutions(question: str, asked: Asked) -> Iterator[Paraphrase]:
    """The question itself with another name of its finding, where frame and name agree in register and grammar."""
    start, core, end = plain(question).partition(without_filler(question))
    if asked.term is None or not core:
        return
    frame = register_of(f"{asked.before}{asked.after}")
    formal = (asked.term.canonical, *asked.term.formal)
    for name in asked.term.names:
        register: Register = "formal" if name in formal else "casual"
        phrase = _in_place_of(asked, name)
        if name.text != asked.noun.text and phrase is not None and _fits(asked, name) and frame in (None, register):
            text = _sentence(f"{start}{asked.before}{phrase}{asked.after}{end}")
            yield Paraphrase(text=text, phenomenon=LEXICAL, register=register, operator=None)


def _in_place_of(asked: Asked, name: Name) -> str | None:
    """`name` with the determiner that the question's own noun phrase has, or None where the two do not go together."""
    if (name.grammar == "plural") != (asked.noun.grammar == "plural"):
        return None
    if asked.determiner in ("", "a", "an"):
        return name.text if asked.kind == "type" else name.phrase
    if asked.determiner in ("any", "the") or name.grammar != "count":
        return f"{asked.determiner} {name.text}"
    return None


def _in_turn(pool: list[Paraphrase], first: Register, rng: np.random.Generator) -> list[Paraphrase]:
    """All of `pool`, shuffled, so that registers alternate and within each of them the phenomena."""
    order = [PHENOMENA[i] for i in rng.permutation(len(PHENOMENA))]
    shuffled = [pool[i] for i in rng.permutation(len(pool))]
    piles = []
    for register in (first, _other(first)):
        groups = [[p for p in shuffled if (p.register_, p.phenomenon) == (register, kind)] for kind in order]
        piles.append(_alternating(groups))
        # so that the second paraphrase shows another phenomenon than the first
        order = [*order[1:], order[0]]
    return _alternating(piles)


def _alternating(piles: list[list[Paraphrase]]) -> list[Paraphrase]:
    return [item for layer in zip_longest(*piles) for item in layer if item is not None]

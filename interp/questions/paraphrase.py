"""Rule-based paraphrases for questions about chest radiographs that come without any.

A question that can be parsed (`interp.questions.parse`) is put into other frames (`interp.questions.frames`), with the
lexicon's names for its finding. Any other question is left alone, because a wrong paraphrase would look like a flip of
the model.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, zip_longest
from typing import NamedTuple

import numpy as np

from interp.questions.frames import FRAMES, LEXICAL, PHENOMENA
from interp.questions.lexicon import Name
from interp.questions.parse import ParsedQuestion, parse_question, single_spaced, without_filler
from interp.questions.registers import REGISTERS, other_register, register_of
from interp.questions.schema import Paraphrase, Question, Register
from interp.runtime.errors import InputError


class ParaphraseCounts(NamedTuple):
    """How many questions were paraphrased, and how many were not."""

    given: int
    """Questions that already had paraphrases and were left unchanged."""
    made: int
    """Questions that were given rule-based paraphrases."""
    not_understood: int
    """Questions left without paraphrases because they could not be parsed."""


class WordingCount(NamedTuple):
    """The number of paraphrases with one pair of tags."""

    phenomenon: str
    """What changed in them; "untagged" where the data do not say."""
    register: str | None
    """Their tone; None where the data do not say."""
    wordings: int
    """Number of paraphrases."""


def paraphrases(question: str, per_question: int, seed: int) -> list[Paraphrase]:
    """Up to `per_question` other wordings of `question`; none if it cannot be parsed.

    They differ from the question and from each other by more than case and punctuation. The registers alternate,
    beginning with the one that the question does not have, and so do the phenomena. The result depends only on the
    three arguments. Raises InputError if `per_question` is below 1.
    """
    if per_question < 1:
        raise InputError(f"found {per_question} paraphrases per question, expected at least 1.")
    parsed = parse_question(question)
    if parsed is None:
        return []
    rng = _generator(question, seed)
    distinct: dict[str, Paraphrase] = {}
    for paraphrase in chain(_substitutions(question, parsed), _reframed(parsed, rng)):
        distinct.setdefault(_key(paraphrase.text), paraphrase)
    distinct.pop(_key(question), None)
    original = register_of(question)
    first = REGISTERS[int(rng.integers(2))] if original is None else other_register(original)
    return _in_turn(list(distinct.values()), first, rng)[:per_question]


def add_paraphrases(
    questions: Iterable[Question], per_question: int, seed: int
) -> tuple[list[Question], ParaphraseCounts]:
    """Copies of the questions with paraphrases where they had none, and counts of what was done.

    A question that is given paraphrases also gets its register, where that was absent and is clear.
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
    return result, ParaphraseCounts(given, made, len(result) - given - made)


def count_wordings(questions: Iterable[Question]) -> list[WordingCount]:
    """The number of paraphrases by phenomenon and register, in alphabetical order."""
    tags = Counter((p.phenomenon or "untagged", p.register_) for q in questions for p in q.paraphrases)
    ordered = sorted(tags.items(), key=lambda item: (item[0][0], item[0][1] or ""))
    return [WordingCount(*tag, count) for tag, count in ordered]


def _generator(question: str, seed: int) -> np.random.Generator:
    digest = hashlib.blake2b(f"{seed} {question}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def _key(text: str) -> str:
    """The words of a wording, equal for wordings that differ only in case, spaces and punctuation."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _reframed(parsed: ParsedQuestion, rng: np.random.Generator) -> Iterator[Paraphrase]:
    """The question in every frame of its kind, each time with a random name of the frame's register."""
    for frame in FRAMES[parsed.kind]:
        names = _names(parsed, frame.register)
        slots = _slots(parsed, names[int(rng.integers(len(names)))])
        if "{mass}" not in frame.text or "mass" in slots:
            text = _sentence(frame.text.format_map(slots))
            yield Paraphrase(text=text, phenomenon=frame.phenomenon, register=frame.register, operator=None)


def _names(parsed: ParsedQuestion, register: Register) -> list[Name]:
    """The names that the question's noun phrase may take in a frame of `register`, its own among them where it fits."""
    if parsed.term is None:
        return [parsed.noun]
    lay = {name.text for name in parsed.term.casual}
    if register == "casual":
        names = [*parsed.term.casual, parsed.noun]
    else:
        names = [parsed.term.canonical, *parsed.term.formal, *([] if parsed.noun.text in lay else [parsed.noun])]
    return [name for name in names if name == parsed.noun or _fits(parsed, name)]


def _fits(parsed: ParsedQuestion, name: Name) -> bool:
    """Whether a name contains no second place beside the question's own ("fluid around the lung on the left" does)."""
    return not name.holds_place or (parsed.kind == "presence" and not parsed.place)


def _slots(parsed: ParsedQuestion, name: Name) -> dict[str, str]:
    place = f" {parsed.place}" if parsed.place else ""
    bare, plural = name.text + place, name.grammar == "plural"
    slots = {
        "x": name.phrase + place,
        "the": f"the {bare}",
        "bare": bare,
        "place": place,
        "is": "are" if plural else "is",
        "does": "do" if plural else "does",
    }
    return slots | {"mass": bare} if name.grammar == "mass" and parsed.term is not None else slots


def _substitutions(question: str, parsed: ParsedQuestion) -> Iterator[Paraphrase]:
    """The question with another name of its finding, wherever its frame and the name agree in register and grammar."""
    start, core, end = single_spaced(question).partition(without_filler(question))
    if parsed.term is None or not core:
        return
    frame = register_of(f"{parsed.before}{parsed.after}")
    formal = (parsed.term.canonical, *parsed.term.formal)
    for name in parsed.term.names:
        register: Register = "formal" if name in formal else "casual"
        phrase = _in_place_of(parsed, name)
        if name.text != parsed.noun.text and phrase is not None and _fits(parsed, name) and frame in (None, register):
            text = _sentence(f"{start}{parsed.before}{phrase}{parsed.after}{end}")
            yield Paraphrase(text=text, phenomenon=LEXICAL, register=register, operator=None)


def _in_place_of(parsed: ParsedQuestion, name: Name) -> str | None:
    """`name` with the determiner of the question's noun phrase; None where the two do not fit together."""
    if (name.grammar == "plural") != (parsed.noun.grammar == "plural"):
        return None
    if parsed.determiner in ("", "a", "an"):
        return name.text if parsed.kind == "type" else name.phrase
    if parsed.determiner in ("any", "the") or name.grammar != "count":
        return f"{parsed.determiner} {name.text}"
    return None


def _in_turn(pool: list[Paraphrase], first: Register, rng: np.random.Generator) -> list[Paraphrase]:
    """All of `pool`, shuffled so that the registers alternate and, within each register, the phenomena."""
    order = [PHENOMENA[i] for i in rng.permutation(len(PHENOMENA))]
    shuffled = [pool[i] for i in rng.permutation(len(pool))]
    piles = []
    for register in (first, other_register(first)):
        groups = [[p for p in shuffled if (p.register_, p.phenomenon) == (register, kind)] for kind in order]
        piles.append(_alternating(groups))
        # The second paraphrase should show another phenomenon than the first.
        order = [*order[1:], order[0]]
    return _alternating(piles)


def _alternating(piles: list[list[Paraphrase]]) -> list[Paraphrase]:
    return [item for layer in zip_longest(*piles) for item in layer if item is not None]

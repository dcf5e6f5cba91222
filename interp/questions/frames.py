"""The frames of rule-based paraphrases: for each kind of question, sentences with a slot for its noun phrase."""

from typing import NamedTuple

from interp.questions.parse import QuestionKind
from interp.questions.schema import Register

SYNTAX, LEXICAL, SCOPE = "syntactic_restructuring", "lexical_substitution", "scope_quantification"
PHENOMENA = (SYNTAX, LEXICAL, SCOPE)
"""What a paraphrase changes, in PSF-Med's terms."""


class Frame(NamedTuple):
    """A sentence with slots for a noun phrase.

    Each slot takes the noun phrase followed by its place: {x} with the determiner that it needs, {the} with "the",
    {bare} without a determiner, and {mass} likewise, but only for uncountable names of the lexicon. {place} is the
    place alone; {is} and {does} agree with the noun phrase.
    """

    register: Register
    """The tone of the sentence."""
    phenomenon: str
    """What changes when a plain question is put this way: SYNTAX or SCOPE."""
    text: str
    """The sentence with its slots."""


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


FRAMES: dict[QuestionKind, tuple[Frame, ...]] = {
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
"""Question kind -> the frames that it can be put into. No frame contains a negation."""

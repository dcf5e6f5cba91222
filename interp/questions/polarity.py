"""Polarity: finds wordings that invert the meaning, as "Can effusion be ruled out?" inverts "Is there effusion?".

A model that understands both must answer them differently, so a flip rate that counted such a pair would be wrong.
Inverting wordings are recognized by their operators ("ruled out", "absent") and tagged with the operator's name.
"""

import re
from functools import lru_cache

OPERATORS = {
    "rule_out": r"rul(?:e|es|ed|ing) out|exclud(?:e|es|ed|ing)|exclusion of",
    "absent": r"absent|absence of|lack(?:s|ing)?(?: of)?|free (?:of|from)|devoid of|without|negative for|clear of",
    "normal": r"normal|unremarkable|within normal limits|healthy|clear(?! (?:of|evidence|signs?|view|picture)\b)",
    "negated": r"no|not|none|never|neither|fails? to",
}
"""Operator -> regular expression of its words. Two operators in one question cancel out."""
REMEMBERED = 2**14
"""Most wordings of which the operators are kept, because a question is compared with each of its paraphrases."""

_ANY = re.compile(rf"\b(?:{'|'.join(OPERATORS.values())})\b", re.IGNORECASE)
# "Is X present, or is it not seen?" is not inverted: the alternative only spells out the answer "no".
_ALTERNATIVE = re.compile(r",?\s*\bor\b[^,?]*", re.IGNORECASE)
# "Isn't there" expects a yes wherever "Is there" does.
_LEADING = re.compile(
    r"^\W*(?:(?:so|and|but)\b\W*)?(?:is|are|do|does|did|can|could|has|have|was|were)n['’]t\b", re.IGNORECASE
)
# "normal" inside "abnormal", and phrases that contain an operator's word without its meaning.
_HARMLESS = re.compile(r"abnormal\w*|normal[- ](?:sized? limits|variant)|whether or not|if not|no doubt", re.IGNORECASE)


@lru_cache(REMEMBERED)
def operators_of(question: str) -> tuple[str, ...]:
    """The inverting operators in a wording, in the order of OPERATORS, each repeated as often as it occurs."""
    text = _HARMLESS.sub(" ", question)
    text = _LEADING.sub(" ", text)
    if not _ANY.search(text):
        return ()
    head = _ALTERNATIVE.split(text, maxsplit=1)[0]
    # An alternative without an operator asks about something else ("effusion or pneumothorax"), so it stays.
    kept = head if head.strip() and _count_operators(text[len(head) :]) else text
    return tuple(
        name for name, words in OPERATORS.items() for _ in re.findall(rf"\b(?:{words})\b", kept, re.IGNORECASE)
    )


def _count_operators(text: str) -> int:
    return sum(len(re.findall(rf"\b(?:{words})\b", text, re.IGNORECASE)) for words in OPERATORS.values())


def inverting_operator(question: str, wording: str) -> str | None:
    """The operator by which `wording` asks for the opposite of `question`; None if both ask for the same.

    One inverts the other if one has an odd and the other an even number of operators. This approximation counts words
    and ignores scope and syntax.
    """
    before, after = operators_of(question), operators_of(wording)
    if len(before) % 2 == len(after) % 2:
        return None
    changed = [name for name in OPERATORS if before.count(name) % 2 != after.count(name) % 2]
    return changed[0]

"""Wordings that invert the meaning: "Can effusion be ruled out?" is no paraphrase of "Is there effusion?".

A yes to the one is a no to the other, so a model that answers both consistently changes its answer, and a flip rate
that counts them is wrong. They are found by the operators that turn a question round, and set apart by name.
"""

import re

OPERATORS = {
    "rule_out": r"rul(?:e|es|ed|ing) out|exclud(?:e|es|ed|ing)|exclusion of",
    "absent": r"absent|absence of|lack(?:s|ing)?(?: of)?|free (?:of|from)|devoid of|without|negative for|clear of",
    "normal": r"normal|unremarkable|within normal limits|healthy|clear(?! (?:of|evidence|signs?|view|picture)\b)",
    "negated": r"no|not|none|never|neither|fails? to",
}
"""Operator -> the words that stand for it; two of them in one question cancel out."""

# "Is X present, or is it not seen?" leaves the question as it was: the alternative only spells out its "no".
_ALTERNATIVE = re.compile(r",?\s*\bor\b[^,?]*", re.IGNORECASE)
# A question that begins with "Isn't there" expects a yes where "Is there" does.
_LEADING = re.compile(
    r"^\W*(?:(?:so|and|but)\b\W*)?(?:is|are|do|does|did|can|could|has|have|was|were)n['’]t\b", re.IGNORECASE
)
# "normal" inside "abnormal", and terms that carry an operator's word without its meaning.
_HARMLESS = re.compile(r"abnormal\w*|normal[- ](?:sized? limits|variant)|whether or not|if not|no doubt", re.IGNORECASE)


def operators_of(question: str) -> list[str]:
    """The inverting operators of a wording, in order of OPERATORS, each as often as it occurs."""
    text = _HARMLESS.sub(" ", question)
    text = _LEADING.sub(" ", text)
    head = _ALTERNATIVE.split(text, maxsplit=1)[0]
    # An alternative that asks for something else ("effusion or no pneumothorax") is kept.
    kept = head if head.strip() and _count(text[len(head) :]) else text
    return [name for name, words in OPERATORS.items() for _ in re.findall(rf"\b(?:{words})\b", kept, re.IGNORECASE)]


def _count(text: str) -> int:
    return sum(len(re.findall(rf"\b(?:{words})\b", text, re.IGNORECASE)) for words in OPERATORS.values())


def inverting_operator(question: str, wording: str) -> str | None:
    """The operator by which `wording` asks for the opposite of `question`, None if it asks for the same.

    It inverts if the one holds an odd and the other an even number of operators. An approximation by words: it knows
    neither scope nor syntax.
    """
    before, after = operators_of(question), operators_of(wording)
    if len(before) % 2 == len(after) % 2:
        return None
    changed = [name for name in OPERATORS if before.count(name) % 2 != after.count(name) % 2]
    return changed[0]

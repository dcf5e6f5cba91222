"""Answers: which ones each question type allows, their normalized spelling, and which questions call for yes or no."""

import re

CLOSED_ANSWERS = frozenset({"yes", "no"})

ANSWER_SETS: dict[str, frozenset[str] | None] = {
    "presence": CLOSED_ANSWERS,
    "abnormality": None,
    "view": frozenset({"pa", "ap", "lateral"}),
    "level": None,
    "location": None,
    "type": None,
    "other": None,
}
"""Question type -> its possible answers, normalized; None where every answer is allowed.

An abnormality question is closed ("is there any abnormality?") or asks for a list. The levels in Medical-CXR-VQA
include mild, moderate, severe, small and large, and the list is open, so any level is allowed.
"""

_SPELLINGS = {"y": "yes", "true": "yes", "n": "no", "false": "no"}
_VIEWS = {
    "pa": r"p\.?a\.?|postero-?\s?anterior|posterior-?\s?anterior",
    "ap": r"a\.?p\.?|antero-?\s?posterior|anterior-?\s?posterior",
    "lateral": r"lat|(left |right )?lateral",
}

_POLITE = (
    r"(?:please|kindly|could you|can you|would you|tell me|indicate|determine|state|confirm|assess|say|if|whether)"
)
_AUXILIARY = (
    r"(?:is|are|was|were|am|do|does|did|has|have|had|can|could|will|would|should|may|might|any|"
    r"anything|something|got|even|isn't|aren't|doesn't|don't|can't|hasn't)"
)
_CHOICES = (
    r"left|right|ap|pa|lateral|frontal|mild|moderate|severe|small|large|bad|a little|unilateral|bilateral|acute|chronic"
)
_STATES = r"present|seen|visible|identified|noted|evident|demonstrated"
_OPEN_WORD = (
    r"(?:(?:in |on |at |to |of |from )?(?:what|which|where|how|why|who|when|describe|list|name|characteri[sz]e|grade))"
)


def normalize_answer(answer: str, type_: str) -> str:
    """Normalize an answer: lower case, single spaces, no final stop, and one name each for yes, no and the views.

    For a presence question "Yes, small." becomes "yes"; for a view question "PA view" becomes "pa".
    """
    text = re.sub(r"\s+", " ", answer).strip().lower().rstrip(".!").strip()
    text = _SPELLINGS.get(text, text)
    if type_ == "presence" and (said := re.match(r"(yes|no)\b[,;:.]", text)):
        return said[1]
    if type_ == "view":
        for name, spellings in _VIEWS.items():
            if re.fullmatch(rf"(?:{spellings})(?: view| projection)?", text):
                return name
    return text


def asks_yes_or_no(question: str) -> bool:
    """Whether the form of a question calls for yes or no.

    Such a question begins with an auxiliary ("Is there", "Does it"), possibly after a courtesy ("Please indicate
    whether"), or is elliptic ("Effusion present?"). It does not offer a choice of its own ("Is it left or right?").
    """
    text = re.sub(r"\s+", " ", question).strip().lower().replace("’", "'")
    if re.match(rf"(?:{_POLITE}\b[ ,]*)*{_OPEN_WORD}\b", text):
        return False
    courteous = re.match(rf"(?:{_POLITE}\b[ ,]*)+(?<=if )|(?:{_POLITE}\b[ ,]*)+(?<=whether )", text)
    if courteous:
        return True
    elliptic = rf"\b(?:{_STATES}|or not)\W*$"
    if not re.match(rf"(?:so |and |but |then )*{_AUXILIARY}\b", text) and not re.search(elliptic, text):
        return False
    choice = rf"\b({_CHOICES}) or (just )?(an? |the )?({_CHOICES})( view| projection| image)?\W*$"
    return re.search(choice, text) is None

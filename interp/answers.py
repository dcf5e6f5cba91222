"""Answers: which of them a type of question admits, one spelling for each, and which questions ask for yes or no."""

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
"""Question type -> the answers it admits, normalised; None where any answer does.

An abnormality question is closed ("is there any abnormality?") or asks for a list. The levels of Medical-CXR-VQA are
mild, moderate, severe, small, large and more, so any is admitted.
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
    """One spelling of an answer: lower case, single blanks, no final stop; yes, no and the views by their usual names.

    "Yes, small." as the answer of a presence question is "yes"; "PA view" of a view question is "pa".
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
    """Whether a question by its form is answered with yes or no.

    It begins with an auxiliary ("Is there", "Does it"), behind courtesies ("Please indicate whether"), or is cut short
    ("Effusion present?"), and offers no choice of its own ("Is it left or right?").
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

"""Answers: which ones each question type admits, their normalized spelling, and what a generated text answers."""

import re
import unicodedata

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

_FIRST = (
    r"(?:(?:the |my |final |short )*answer(?: is)?\W+)?(yes|no)\b"
    r"(?!(?:/| or | and )(?:yes|no)\b)(?! (?:image|information|way|idea|doubt)s?\b)"
)
_UNDECIDED = (
    r"yes(?:/| or | and )no|cannot|can not|can't|unable|not able|not possible|impossible|"
    r"unclear|not clear (?:if|whether)|uncertain|unsure|not (?:sure|certain)|(?:not|\w+n't) know|"
    r"inconclusive|indeterminate|undetermined|equivocal|(?:difficult|hard) to|"
    r"insufficient|not enough|not applicable|n/a|no (?:image|information|way|idea)s?"
)
_TENTATIVE = r"may|might|could|maybe|perhaps|possible|possibly|if|whether"
_NORMAL = r"normal|unremarkable|clear(?! (?:evidence|signs?)\b)|intact|healthy"
_DISCLAIMER = r"advice|diagnosis|substitute|doctor|physician|radiologist|professional"
_DENIES = (
    r"no(?! doubt\b)|nope|not|\w+n't|none|nothing|neither|nor|without|absent|absence|negative|lacks?|free of|unlikely"
)
_AFFIRMS = (
    r"yes|yeah|yep|present|positive for|there(?:'s| is| are| appears? to be| seems? to be) |(?:evidence|signs?) of|"
    r"(?:is|are|was|were) (?:\w+ly )?(?:seen|visible|identified|noted|evident|observed|detected|demonstrated)"
)
_CLAUSE_END = r"[.,;:!\n()]|\b(?=(?:but|however|although|though|while|whereas|and|with|without)\b)"


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


def parse_yes_no(text: str) -> str | None:
    """Parse a generated answer to a closed question: "yes", "no", or None where the text commits to neither.

    The rules use keywords, as benchmarks of medical VQA do:

    1. If the first word is yes or no, it decides. It may follow "Answer:" or a repetition of the question.
    2. Otherwise a text that declares itself undecided anywhere ("cannot be excluded", "unclear") gives None.
    3. Otherwise each clause votes. A clause that denies (no, not, without, absent, negative ...) votes no, even if it
       also affirms something. A clause that affirms (yes, present, there is, evidence of, is seen ...) votes yes.
       Tentative clauses (may, possibly, whether) and disclaimers do not vote. Neither do clauses that call something
       normal, clear or unremarkable, because whether that means yes depends on the question.
    4. If no clause votes, or two disagree, the result is None.

    The question itself is not considered: "There is a nodule." is a yes even if the question was about effusion.
    """
    bare = _without_markup(text)
    whole = normalize_answer(bare, "other")
    if whole in CLOSED_ANSWERS:
        return whole
    answered = re.sub(r"[^.!?\n]*\?", "", bare).strip()
    for part in (bare, answered):
        if first := re.match(_FIRST, part):
            return first[1]
    if re.search(rf"\b(?:{_UNDECIDED})\b", bare):
        return None
    votes = set()
    for clause in re.split(_CLAUSE_END, answered):
        if re.search(rf"\b(?:{_TENTATIVE}|{_NORMAL}|{_DISCLAIMER})\b", clause):
            continue
        if re.search(rf"\b(?:{_DENIES})\b", clause):
            votes.add("no")
        elif re.search(rf"\b(?:{_AFFIRMS})\b", clause):
            votes.add("yes")
    return votes.pop() if len(votes) == 1 else None


def begins_with_answer(generated: str, answer: str, type_: str) -> bool:
    """Whether the first words of a generated text are the complete true answer to a question of `type_`.

    Both are normalized (`normalize_answer`) and compared without case, punctuation and markup: "**Left** lung" begins
    with "left" and "P.A. view" with "pa", but "mildly" does not begin with "mild", nor "left/right" with "left".
    """
    text = _without_markup(generated)
    true = _words(normalize_answer(answer, type_))
    leads = (text[: word.end()] for word in re.finditer(r"\w+\b(?!/)", text))
    return bool(true) and any(_words(normalize_answer(lead, type_)) == true for lead in leads)


def _without_markup(text: str) -> str:
    """The text in lower case with single spaces, without markup and leading punctuation; line breaks stay."""
    text = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    text = re.sub(r"[^\S\n]+", " ", re.sub(r"[*_`#>\"“”]", "", text))
    return re.sub(r"^\W+", "", text)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())

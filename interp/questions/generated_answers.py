"""Reads the answer out of a generated text: yes or no for closed questions, the leading words for all others."""

import re
import unicodedata

from interp.questions.answers import CLOSED_ANSWERS, normalize_answer

_FIRST = (
    r"(?:(?:the |my |final |short )*answer(?: is)?\W+)?"
    r"(yes|no|(?:sí|oui|ja|sim|non|nein|não|nee)\b(?![-'/])|si(?=[,.]))\b"
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


def parse_yes_no(text: str) -> str | None:
    """Parse a generated answer to a closed question: "yes", "no", or None where the text commits to neither.

    The rules use keywords, as benchmarks of medical VQA do:

    1. If the first word is yes or no, in English or another language of `interp.questions.answers`, it decides. It may
       follow "Answer:" or a repetition of the question.
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
            return normalize_answer(first[1], "other")
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

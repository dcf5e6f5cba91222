"""Answers: which ones each question type allows, and the one spelling in which all are stored, trained and judged."""

import math
import re
import unicodedata
from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interp.questions.polarity import operators_of
from interp.questions.yes_no_form import question_form, without_accents

CLOSED_ANSWERS = frozenset({"yes", "no"})
FEWEST_EQUAL = 20
"""Fewest equal answers that count as a collapse; at even odds, so many are equal once in half a million times."""

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

ANSWER_FIELDS = ("text", "answer", "value", "label")
"""Fields of an object that hold the answer, as in VQA v2 (`{"answer": "yes", "answer_confidence": "maybe"}`)."""

YES_WORDS = r"yes|si|oui|ja|sim"
NO_WORDS = r"no|non|nein|nao|nee"
"""Yes and no in English, Spanish, French, German, Italian, Portuguese and Dutch, without accents."""

# Words that mean yes or no whatever was asked.
_SPELLINGS = dict.fromkeys([*YES_WORDS.split("|"), "y", "true"], "yes")
_SPELLINGS |= dict.fromkeys([*NO_WORDS.split("|"), "n", "false"], "no")
# Words that mean yes or no as the answer to a yes/no question.
_LABELS = dict.fromkeys(["1", "t", "yeah", "yep", "yup", "affirmative", "vrai", "verdadero", "wahr"], "yes")
_LABELS |= dict.fromkeys(["0", "f", "nope", "nah", "faux", "falso", "falsch"], "no")
# Words that name what is there, so that they mean yes or no unless the question inverts it ("Is the chest clear?").
_FOUND = dict.fromkeys(["present", "positive", "pos", "presente", "positivo", "vorhanden"], "yes")
_FOUND |= dict.fromkeys(
    ["absent", "negative", "neg", "none", "nothing", "ausente", "negativo", "ninguno", "ninguna"], "no"
)

_NOT_A_FINDING = r"(?:image|information|info|data|comment|idea|doubt|way|change)s?\b"
_NOT_DECIDED = (
    r"(?:sure|certain|clear|possible|applicable|known|mentioned|stated|given|available|specified|assessed|evaluated|"
    r"determined|enough|only|necessarily)\b"
)
_LEADING_YES = re.compile(rf"(?:{YES_WORDS}|yeah|yep)\b(?![-/|?])")
_LEADING_NO = re.compile(rf"(?:{NO_WORDS}|nope)\b(?![-/|?])")
_DENIAL = re.compile(
    rf"(?:there (?:is|are|was|were) )?(?:no\b(?![-/|?])(?! (?:\w+ )?{_NOT_A_FINDING})|"
    rf"not\b(?! (?:\w+ )?{_NOT_DECIDED}))|"
    r"(?:none|without|absence of|negative for|sin|pas d(?:e|u|')|aucune?|kein\w*)\b"
)
_OPPOSITES = rf"(?:{YES_WORDS}|{NO_WORDS}|maybe|perhaps|unsure|uncertain|unknown)"

_VIEWS = {
    "pa": r"p\.?a\.?|postero-?\s?anterior|posterior-?\s?anterior",
    "ap": r"a\.?p\.?|antero-?\s?posterior|anterior-?\s?posterior",
    "lateral": r"lat|(left |right )?lateral",
}


def single_answer(says_yes: NDArray[np.bool_]) -> str | None:
    """The answer that a model gives to all of at least FEWEST_EQUAL wordings, bool [n]; None if it does not."""
    if len(says_yes) < FEWEST_EQUAL or len(set(says_yes.tolist())) > 1:
        return None
    return "yes" if says_yes[0] else "no"


def answer_text(value: Any) -> Any:
    """An answer as text, whatever a table or JSON holds: text, a number, true or false, or lists or objects of these.

    A list of one is its element, and a longer one its distinct elements, joined by commas. An object is the field that
    is named like an answer (ANSWER_FIELDS). Missing values and empty lists are None; text such as "none" is an answer.
    Anything else is returned as it is.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        field = next((name for name in ANSWER_FIELDS if name in value), None)
        return value if field is None else answer_text(value[field])
    if isinstance(value, list | tuple) and len(value) == 1:
        return answer_text(value[0])
    if isinstance(value, list | tuple | set | frozenset):
        parts = [answer_text(part) if isinstance(part, Mapping) else _scalar_text(part) for part in value]
        if not all(isinstance(part, str) or part is None for part in parts):
            return value
        return ", ".join(dict.fromkeys(part.strip() for part in parts if part is not None)) or None
    return _scalar_text(value)


def _scalar_text(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float | Decimal):
        value = float(value)
        if math.isnan(value):
            return None
        return str(int(value)) if value.is_integer() else str(value)
    return str(value) if isinstance(value, int) else value


@lru_cache(maxsize=2**16)
def normalize_answer(answer: str, type_: str, question: str | None = None, yes_no: bool | None = None) -> str:
    """Normalize an answer: lower case, single spaces, no final stop, and one name each for yes, no and the views.

    "Yes.", "True" and "Sí" are always "yes". To a yes/no question, "Yes, a small one", "1" and "present" are "yes" too,
    and "No edema.", "no evidence of edema", "0" and "none" are "no". A question is one by its form, its type, or
    because its data set says so (`yes_no`). Words that name a finding ("No edema") do not answer a question that
    inverts it ("Is the chest clear?"). For a view question "PA view" becomes "pa".
    """
    text = re.sub(r"\s+", " ", answer).strip().lower().rstrip(".!").strip()
    plain = re.sub(r"^[^\w?]+|[^\w?]+$", "", without_accents(unicodedata.normalize("NFKC", text)))
    # The sign and the decimals of a number mean something.
    label = re.sub(r"\.0+$", "", text)
    said = _SPELLINGS.get(plain) or _yes_or_no(plain, label, type_, question, yes_no)
    if said is not None:
        return said
    if type_ == "view":
        for name, spellings in _VIEWS.items():
            if re.fullmatch(rf"(?:{spellings})(?: view| projection)?", text):
                return name
    return text


def _yes_or_no(plain: str, label: str, type_: str, question: str | None, yes_no: bool | None) -> str | None:
    """What a longer or coded answer says; None if it does not answer the question with yes or no."""
    form = None if question is None else question_form(question)
    closed = form != "choice" and (yes_no or form == "yes-no" or type_ == "presence")
    if closed or (form is None and question is not None):
        for word, leading in (("yes", _LEADING_YES), ("no", _LEADING_NO)):
            if lead := leading.match(plain):
                rest = plain[lead.end() :]
                if re.fullmatch(rf"\W*(?:(?:or|and|to|o|ou|oder)\b\W*)?{_OPPOSITES}", rest):
                    return None
                if re.match(r"\s?[,;:.!(–—]|\s[-–—]\s", rest) or (closed and question is not None and word == "yes"):
                    return word
    if not closed or question is None:
        return None
    said = _LABELS.get(label) or _LABELS.get(plain if plain.isalpha() else "")
    if said is not None or len(operators_of(question)) % 2:
        return said
    return _FOUND.get(plain) or ("no" if _DENIAL.match(plain) else None)

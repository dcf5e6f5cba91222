"""The form of a question: whether it asks for yes or no, offers a choice of its own, or is open.

English is covered best. Questions in Spanish, French, German, Italian, Portuguese and Dutch are recognized by the words
that they begin with.
"""

import re
import unicodedata
from functools import lru_cache
from typing import Literal

from interp.questions.lexicon import exact_term

Form = Literal["yes-no", "choice", "open"]

_POLITE = (
    r"(?:please|kindly|could you|can you|would you|tell me|indicate|determine|state|confirm|assess|say|if|whether)"
)
_AUXILIARY = (
    r"(?:is|are|was|were|am|do|does|did|has|have|had|can|could|will|would|should|may|might|any|"
    r"anything|something|got|even|isn't|aren't|doesn't|don't|can't|hasn't)"
)
_STATES = r"present|seen|visible|identified|noted|evident|demonstrated"
_OPEN = (
    r"(?:(?:in |on |at |to |of |from )?(?:what|which|where|how|why|who|whose|when|describe|list|name|characteri[sz]e|"
    r"grade|number of|count))"
)

# Questions in other languages, without their accents: words that open a question of each form.
_FOREIGN_OPEN = (
    r"(?:(?:a|de|en|por|para|con|dans|sur|sous|a|auf|in|an|aus|von|di|da|em|no|na|o) )?"
    r"(?:que|cuale?s?|donde|como|cuant[oa]s?|cuando|quiene?s?|descri\w+|"
    r"quel(?:le)?s?|ou|comment|combien|pourquoi|quand|qui|quoi|qu'\w+|decri\w+|"
    r"welche[mnrs]?|wo|wohin|woher|wie|wieviele?|warum|wann|wer|beschreib\w*|was (?:ist|sind|zeigt|sieht|kann|fur)|"
    r"qual[ei]?|quais|dove|quant[aeio]|perche|cosa|onde|quem|welke?|waar|hoeveel|hoe)"
)
_FOREIGN_YES_NO = (
    # Spanish and Portuguese
    r"hay|existen?|estan?|es|son|"
    r"se (?:le )?(?:observa|ve|aprecia|visualiza|identifica|evidencia|detecta|muestra|puede)n?|"
    r"presentan?|muestran?|tienen?|puede[ns]?|podria[ns]?|hubo|han?|sao|"
    # French; the inverted verb ("montre-t-elle") is looked for separately
    r"(?:il )?y a(?: t il)?|est ce|"
    # German
    r"gibt es|ist|sind|liegt|liegen|zeigt|zeigen|hat|haben|besteht|bestehen|sieht|sehen|kann|konnen|findet|finden|"
    r"lasst|lassen|war|waren|erkennt|erkennen|weist|weisen|wurden?|handelt|"
    # Italian and Dutch
    r"c'e|ci sono|e (?:presente|visibile)|sono|si (?:vede|osserva|nota)(?:no)?|mostra|zijn|heeft|hebben|ziet|toont"
)
_INVERTED_VERB = r"\b\w+-(?:t-)?(?:ils?|elles?|on|vous|ce)\b"

_CHOICES = (
    r"left|right|ap|pa|lateral|frontal|mild|moderate|severe|small|large|bad|a little|unilateral|bilateral|acute|"
    r"chronic|normal|abnormal|enlarged|big|shrunken|upper|lower|middle|anterior|posterior|medial|central|peripheral|focal|"
    r"diffuse|single|multiple|solid|cystic|benign|malignant|male|female|supine|erect|upright|portable|inspiration|"
    r"expiration|axial|coronal|sagittal|x-?ray|ct|mri|ultrasound|stable|unchanged|improved|worse|worsened|increased|"
    r"decreased|high|low|both|sharp|blunted|midline|deviated|symmetric|asymmetric|t1|t2|"
    r"anormal(?:e|es)?|normale[ns]?|agrandad[oa]|izquierd[oa]|derech[oa]|gauche|droite?|elargie?s?|links|rechts|"
    r"linke[nrs]?|rechte[nrs]?|vergrossert"
)
_LINKS = r"(?:just|rather|instead|is|are|it|they|was|an?|the|in|on|of|at|el|la|le|der|die|das|a)"
_OR = rf"(?:/|,? (?:or|o|ou|oder)\b),? ?(?:{_LINKS} )*"
_CHOICE = rf"\b(?:{_CHOICES})(?: \w+)?{_OR}(?:{_CHOICES})"
_CHOICE_AT_END = re.compile(rf"{_CHOICE}(?: view| projection| image)?\W*$")
_CHOICE_NEAR_END = re.compile(rf"{_CHOICE}(?! (?:{_STATES})\b)(?: (?!(?:{_STATES})\b)[\w-]+){{0,3}}\W*$")
# One familiar alternative is enough in "Are the lungs normal or hyperinflated?".
_CHOICE_BY_ONE = re.compile(rf"\b(?:(?:{_CHOICES}){_OR}(?!not\b)[\w-]+|[\w-]+{_OR}(?:{_CHOICES}))\W*$")
_TWO_WORDS = re.compile(rf"\b(?!(?:{_STATES})\b)[\w-]+{_OR}(?!(?:not|absent|{_STATES})\b)[\w-]+\W*$")
_OF_BEING = re.compile(
    r"(?:is|are|was|were|do(?:es)?\b.*\b(?:look|appear|seem)|esta[ns]?|es|son|est|sont|ist|sind)\b(?! there\b)"
)
_OF_EXISTENCE = re.compile(r"\b(?:there|any)\b")


def asks_yes_or_no(question: str) -> bool:
    """Whether the form of a question calls for yes or no (`question_form`)."""
    return question_form(question) == "yes-no"


@lru_cache(maxsize=2**16)
def question_form(question: str) -> Form | None:
    """What the form of a question calls for; None if that cannot be told.

    A yes/no question begins with an auxiliary ("Is there", "Does it"), possibly after a courtesy ("Please indicate
    whether"), or is elliptic ("Effusion present?", "Effusion?"). A choice names the answers ("Is it left or right?",
    "Is the heart enlarged or normal?"). An open question begins with a word that asks for something else ("Where").
    """
    text = re.sub(r"\s+", " ", question).strip().lower().replace("’", "'")
    if re.match(rf"(?:{_POLITE}\b[ ,]*)*{_OPEN}\b", text):
        return "open"
    plain = re.sub(r"^[\W_]+", "", without_accents(text))
    if re.match(rf"{_FOREIGN_OPEN}\b", plain):
        return "open"
    of_being = _OF_BEING.match(plain) is not None
    if _CHOICE_AT_END.search(plain) or (of_being and (_CHOICE_NEAR_END.search(plain) or _CHOICE_BY_ONE.search(plain))):
        # "Is there effusion on the left or right?" may mean either.
        return None if _OF_EXISTENCE.search(plain) else "choice"
    if of_being and _TWO_WORDS.search(plain) and not _OF_EXISTENCE.search(plain):
        # Only the answer tells whether "Is the effusion loculated or layering?" is a choice.
        return None
    if re.match(rf"(?:{_POLITE}\b[ ,]*)+(?:(?<=if )|(?<=whether ))", text):
        return "yes-no"
    if re.match(rf"(?:so |and |but |then )*{_AUXILIARY}\b", text) or re.search(rf"\b(?:{_STATES}|or not)\W*$", text):
        return "yes-no"
    if text.startswith("¿") or re.match(rf"(?:{_FOREIGN_YES_NO})\b", plain) or re.search(_INVERTED_VERB, plain):
        return "yes-no"
    if exact_term(text.strip(" ?.!")) is not None:
        return "yes-no"
    return None


def without_accents(text: str) -> str:
    """The text with every accented letter replaced by the bare one, and `ß` by `ss`."""
    parts = unicodedata.normalize("NFKD", text.replace("ß", "ss"))
    return "".join(part for part in parts if not unicodedata.combining(part))

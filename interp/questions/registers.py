"""The register of a question: the formal tone of reports or the casual tone of speech."""

import re

from interp.questions.lexicon import find_term
from interp.questions.parse import single_spaced
from interp.questions.schema import Register

REGISTERS: tuple[Register, Register] = ("formal", "casual")

_FORMAL = re.compile(
    r"""
    \b (?: demonstrat\w+ | identif\w+ | appreciated | reveal\w* | exhibit\w* | whether | kindly | indicate | evidence
      | radiographic\w* | examination | current\ study | consistent\ with | projection | laterality | severity
      | morphology | hemithorax | within\ normal\ limits ) \b
    """,
    re.VERBOSE | re.IGNORECASE,
)
_CASUAL = re.compile(
    r"""
    ^ (?: so | hey | any\w* | even | got ) \b
    | \b (?: pics? | got | spot | here | this\ one | at\ all | how\ bad | kind\ of | wrong | off
      | (?: do | can ) \ you \ see | looks? \ (?: like | bad ) | a \ little ) \b
    """,
    re.VERBOSE | re.IGNORECASE,
)


def register_of(text: str) -> Register | None:
    """The register of a question; None unless only words typical of one register occur.

    Formal words are those of reports ("demonstrate", "identified", "whether"). Casual words are those of speech ("pic",
    "got", "do you see") and the lexicon's lay names. "Is there cardiomegaly?" contains neither.
    """
    text = single_spaced(text)
    match = find_term(text)
    lay = match is not None and match.name in match.term.casual
    formal, casual = _FORMAL.search(text) is not None, lay or _CASUAL.search(text) is not None
    if formal == casual:
        return None
    return "formal" if formal else "casual"


def other_register(register: Register) -> Register:
    """The register that `register` is not."""
    return "casual" if register == "formal" else "formal"

"""Prompt normalization, a published baseline against wording sensitivity: every question in one canonical form."""

from typing import Literal

from interp.questions.lexicon import find_term
from interp.questions.parse import ParsedQuestion, indefinite_article, parse_question, single_spaced, without_filler

NormalForm = Literal["gatescope", "psf-med"]
"""A canonical form: ours, or that of PSF-Med (arXiv 2602.21428)."""
FORMS: dict[NormalForm, str] = {
    "gatescope": "{verb} there {what}{place}?",
    "psf-med": "{verb} {what} present{place} in this chest radiograph?",
}
"""Canonical form -> the sentence that asks for a finding."""


def normalize(text: str, form: NormalForm = "gatescope") -> str:
    """The canonical form of a question. It is idempotent and never changes the polarity.

    A presence question becomes "Is there pleural effusion in the left lung?", or in PSF-Med's form "Is pleural effusion
    present in the left lung in this chest radiograph?", with the lexicon's canonical name or the question's own noun
    phrase. A question about abnormality becomes "Is there an abnormality?" and so on. All others, negated ones
    included, lose only politeness, filler and extra spaces. A text that is nothing but filler is kept.
    """
    parsed = parse_question(text)
    if parsed is not None and parsed.kind in ("presence", "abnormality"):
        place = f" {parsed.place.lower()}" if parsed.place else ""
        verb = "Are" if _is_plural(parsed) else "Is"
        return FORMS[form].format(verb=verb, what=_noun_phrase(parsed), place=place)
    core = without_filler(text)
    return f"{core[:1].upper()}{core[1:]}?" if core else single_spaced(text)


def _is_plural(parsed: ParsedQuestion) -> bool:
    return (parsed.noun if parsed.term is None else parsed.term.canonical).grammar == "plural"


def _noun_phrase(parsed: ParsedQuestion) -> str:
    if parsed.kind == "abnormality":
        return "an abnormality"
    if parsed.term is not None:
        return parsed.term.canonical.phrase
    noun = parsed.noun.text.lower()
    head = find_term(noun)
    counted = head is not None and head.name.grammar == "count"
    needs_article = counted or parsed.noun.article in ("a", "an")
    return f"{indefinite_article(noun)} {noun}" if needs_article else noun

"""Prompt normalisation, a published baseline against sensitivity to wording: every question in one canonical form."""

from interp.questions.lexicon import find_term
from interp.questions.parse import Asked, indefinite_article, plain, read, without_filler


def normalize(text: str) -> str:
    """The canonical form of a question: the same text if applied twice, and never of another polarity.

    A presence question becomes "Is there pleural effusion in the left lung?", with the canonical name of the lexicon
    or its own noun phrase; one about abnormality "Is there an abnormality?"; of any other, negated ones among them,
    only politeness, filler and blanks go. A text of nothing else stays, with single blanks.
    """
    asked = read(text)
    if asked is not None and asked.kind in ("presence", "abnormality"):
        place = f" {asked.place.lower()}" if asked.place else ""
        verb = "Are" if _is_plural(asked) else "Is"
        return f"{verb} there {_noun(asked)}{place}?"
    core = without_filler(text)
    return f"{core[:1].upper()}{core[1:]}?" if core else plain(text)


def _is_plural(asked: Asked) -> bool:
    return (asked.noun if asked.term is None else asked.term.canonical).grammar == "plural"


def _noun(asked: Asked) -> str:
    if asked.kind == "abnormality":
        return "an abnormality"
    if asked.term is not None:
        return asked.term.canonical.phrase
    noun = asked.noun.text.lower()
    head = find_term(noun)
    counted = head is not None and head.name.grammar == "count"
    needs_article = counted or asked.noun.article in ("a", "an")
    return f"{indefinite_article(noun)} {noun}" if needs_article else noun

"""The findings of chest radiography and their synonyms, and how to find them in a text.

The findings come from the label sets of CheXpert, ChestX-ray14, PadChest and MIMIC-CXR. A synonym is listed only if a
radiologist who is asked whether it is present would answer as for the canonical name. Causes, subtypes, broader terms
and ambiguous lay words are therefore left out: "lung collapse" (atelectasis or pneumothorax), "lung fluid" (edema or
effusion), "a spot on the lung" (nodule, mass or any opacity), "a lung infection" (pneumonia or tuberculosis),
"scarring" (fibrosis or a scar), "airspace opacity" (consolidation or any opacity).

The table writes a countable name with its article ("a nodule"), a plural with "some" ("some devices", where "some" is
not part of the name), and an uncountable name without either.
"""

import re
from functools import cache
from typing import Literal, NamedTuple

Grammar = Literal["mass", "count", "plural"]
"""What a name needs in a sentence: nothing (mass), an indefinite article (count), or a plural verb (plural)."""


class Name(NamedTuple):
    """A name of a finding, with its grammar."""

    text: str
    """The words without an article."""
    grammar: Grammar
    """Whether the name is uncountable, countable or plural."""
    article: str = ""
    """The article of a countable name, "a" or "an"; "any" where it is unknown whether the noun is countable."""

    @property
    def phrase(self) -> str:
        """The name with the article that it needs in a sentence."""
        return f"{self.article} {self.text}".lstrip()

    @property
    def holds_place(self) -> bool:
        """Whether the name itself contains a place, as "fluid around the lung" does."""
        return not {"of", "in", "on", "around", "under"}.isdisjoint(self.text.split())


class Term(NamedTuple):
    """A finding: its canonical name and its synonyms."""

    canonical: Name
    """The name used in canonical forms."""
    formal: tuple[Name, ...]
    """Synonyms in the style of radiology reports."""
    casual: tuple[Name, ...]
    """Synonyms of everyday speech; empty where every lay word is ambiguous."""

    @property
    def name(self) -> str:
        """The canonical name without an article, which identifies the finding."""
        return self.canonical.text

    @property
    def names(self) -> tuple[Name, ...]:
        """All names, the canonical one first."""
        return (self.canonical, *self.formal, *self.casual)


class Match(NamedTuple):
    """The place where a text names a finding."""

    term: Term
    """The finding that was named."""
    name: Name
    """The name that was found, in the plural where the text has the plural."""
    start: int
    """Position of the first character, including a leading article."""
    end: int
    """Position after the last character."""
    surface: str
    """The text from `start` to `end`."""


def _name(written: str) -> Name:
    first, _, rest = written.partition(" ")
    if first in ("a", "an"):
        return Name(rest, "count", first)
    return Name(rest, "plural") if first == "some" else Name(written, "mass")


def _term(canonical: str, formal: tuple[str, ...] = (), casual: tuple[str, ...] = ()) -> Term:
    return Term(_name(canonical), tuple(map(_name, formal)), tuple(map(_name, casual)))


TERMS: tuple[Term, ...] = (
    _term(
        "cardiomegaly",
        ("cardiac enlargement", "enlargement of the heart", "an enlarged cardiac silhouette"),
        ("an enlarged heart", "a big heart", "heart enlargement"),
    ),
    _term(
        "an enlarged cardiomediastinum",
        ("an enlarged cardiomediastinal silhouette", "cardiomediastinal enlargement"),
    ),
    _term("mediastinal widening", ("a widened mediastinum", "widening of the mediastinum"), ("a wide mediastinum",)),
    _term(
        "pleural effusion",
        ("an effusion", "pleural fluid", "a pleural fluid collection", "fluid in the pleural space"),
        ("fluid around the lung", "fluid around the lungs"),
    ),
    _term("pericardial effusion", ("pericardial fluid",), ("fluid around the heart",)),
    _term(
        "pneumothorax",
        ("pleural air", "air in the pleural space"),
        ("a collapsed lung", "air around the lung"),
    ),
    _term("hydropneumothorax", ("air and fluid in the pleural space",)),
    _term("consolidation", ("lung consolidation", "pulmonary consolidation", "parenchymal consolidation")),
    _term("atelectasis", ("pulmonary atelectasis", "atelectatic change"), ("partial lung collapse",)),
    _term(
        "pulmonary edema",
        ("edema", "pulmonary oedema", "oedema", "edema of the lungs"),
        ("fluid in the lungs",),
    ),
    _term(
        "pulmonary vascular congestion",
        ("vascular congestion", "pulmonary venous congestion", "congestion of the pulmonary vessels"),
        ("congestion of the lung vessels",),
    ),
    _term("pneumonia"),
    _term(
        "a lung opacity",
        ("an opacity", "a pulmonary opacity", "a parenchymal opacity", "lung opacification"),
        ("a shadow on the lung",),
    ),
    _term("a lung lesion", ("a pulmonary lesion",)),
    _term("a lung nodule", ("a pulmonary nodule", "a nodule")),
    _term("a lung mass", ("a pulmonary mass", "a mass")),
    _term("an infiltrate", ("infiltration", "a pulmonary infiltrate", "a lung infiltrate")),
    _term("a fracture", ("a bone fracture", "an osseous fracture", "a bony fracture"), ("a broken bone",)),
    _term("a rib fracture", ("a fractured rib", "a costal fracture"), ("a broken rib",)),
    _term(
        "some support devices",
        ("a support device", "some medical support devices"),
        ("some medical devices", "a medical device"),
    ),
    _term("a pacemaker", ("a cardiac pacemaker",), ("a heart pacemaker",)),
    _term("emphysema", ("pulmonary emphysema", "emphysematous change")),
    _term("subcutaneous emphysema", ("surgical emphysema", "soft tissue emphysema"), ("air under the skin",)),
    _term("pulmonary fibrosis", ("fibrosis", "lung fibrosis", "fibrosis of the lungs")),
    _term("a hernia"),
    _term("a hiatal hernia", ("a hiatus hernia",)),
    _term("pleural thickening", ("thickening of the pleura", "a thickened pleura"), ("a thick lung lining",)),
    _term("scoliosis", ("spinal scoliosis", "scoliosis of the spine"), ("a sideways curve of the spine",)),
    _term("kyphosis", ("spinal kyphosis", "kyphosis of the spine")),
    _term("a granuloma"),
    _term("calcification", ("a calcific deposit",), ("a calcium deposit",)),
    _term(
        "aortic calcification",
        ("calcification of the aorta", "a calcified aorta"),
        ("calcium in the aorta",),
    ),
    _term("a tortuous aorta", ("aortic tortuosity", "tortuosity of the aorta"), ("a twisting aorta",)),
    _term("aortic elongation", ("an elongated aorta", "elongation of the aorta")),
    _term(
        "pneumoperitoneum",
        ("free intraperitoneal air", "free peritoneal air", "free air under the diaphragm"),
        ("free air in the belly",),
    ),
    _term("pneumomediastinum", ("mediastinal emphysema", "mediastinal air"), ("air in the mediastinum",)),
    _term("tuberculosis", ("pulmonary tuberculosis",), ("TB",)),
    _term("some increased interstitial markings", ("some prominent interstitial markings",)),
    _term(
        "hyperinflation",
        ("pulmonary hyperinflation", "some hyperinflated lungs", "hyperinflation of the lungs"),
        ("some overinflated lungs",),
    ),
    _term("bronchiectasis", ("bronchial dilatation", "some dilated bronchi")),
    _term("lymphadenopathy", ("adenopathy", "some enlarged lymph nodes"), ("some swollen lymph nodes",)),
    _term(
        "costophrenic angle blunting",
        ("blunting of the costophrenic angle", "a blunted costophrenic angle"),
    ),
    _term(
        "an elevated hemidiaphragm",
        ("hemidiaphragm elevation", "elevation of the hemidiaphragm"),
        ("a raised hemidiaphragm",),
    ),
)
"""The 43 findings; each name occurs only once in the table."""


def find_term(text: str) -> Match | None:
    """The longest name of a finding in `text`, the first one among equally long names; None if there is none.

    Names match whole words in any case, plurals included. The words before a name are ignored: in "a thyroid nodule"
    this finds the nodule, so a caller that replaces names must check what surrounds them.
    """
    found = max(_pattern().finditer(text), key=lambda m: m.end("name") - m.start("name"), default=None)
    if found is None:
        return None
    term, name = _table()[_key(found["name"])]
    start = found.start("article") if found["article"] else found.start("name")
    return Match(term, name, start, found.end("name"), text[start : found.end("name")])


def exact_term(phrase: str) -> Match | None:
    """The match that covers all of `phrase`; None if other words surround the name."""
    match = find_term(phrase)
    return match if match is not None and match.surface == phrase else None


def named_finding(text: str) -> str:
    """Canonical name of the finding that a wording asks for; "other" if the lexicon has none of its words."""
    match = find_term(text)
    return "other" if match is None else match.term.name


def _key(text: str) -> str:
    return " ".join(text.lower().split())


@cache
def _table() -> dict[str, tuple[Term, Name]]:
    table: dict[str, tuple[Term, Name]] = {}
    for term in TERMS:
        for name in term.names:
            # The last word of a name with a place is not its head ("fluid around the lung"), so it has no plural here.
            if name.grammar != "plural" and not name.holds_place:
                table.setdefault(_key(_plural(name.text)), (term, Name(_plural(name.text), "plural")))
    # Listed names override plurals made by rule.
    return table | {_key(name.text): (term, name) for term in TERMS for name in term.names}


def _plural(text: str) -> str:
    if text.endswith("y"):
        return text[:-1] + "ies"
    return text + ("es" if text.endswith(("s", "x")) else "s")


@cache
def _pattern() -> re.Pattern[str]:
    names = sorted(_table(), key=len, reverse=True)
    either = "|".join(re.escape(name).replace(r"\ ", r"\s+") for name in names)
    # A lookahead, so that a short name does not hide a longer one that begins inside it. The names are matched in ASCII
    # mode, because letters that are equal only after case folding (the dotless i) are not in the table.
    return re.compile(
        rf"""
        (?= (?<![\w-]) (?P<article> an?\s+ )? (?<![\w-]) (?P<name> (?a: {either} ) ) (?![\w-]) )
        """,
        re.VERBOSE | re.IGNORECASE,
    )

"""Reads what a question asks: its kind, its noun phrase and its place, or None where a rewording could change it.

A question is refused if any word could turn, split or compare its meaning; then its opening is looked up; then the
phrases that add no meaning, or a place, are cut off the end until only the noun phrase is left.
"""

import re
from typing import Literal, NamedTuple

from interp.questions.lexicon import Name, Term, exact_term, find_term

Kind = Literal["presence", "abnormality", "normal", "view", "level", "location", "side", "type"]

LONGEST = 300
"""Characters; what is longer is no single question."""

LONGEST_NOUN = 6
"""Words; what is longer is no noun phrase but a clause."""


class Asked(NamedTuple):
    """What a question asks."""

    kind: Kind
    """Of a finding: presence, level, location, side, type; of the image: abnormality, normal, view."""
    noun: Name
    """The noun phrase as the question has it; empty where the kind is of the image."""
    term: Term | None
    """The finding, if the noun phrase is exactly a name of it and the place leaves it that."""
    place: str
    """The anatomical phrase, verbatim, e.g. "in the left lung"; empty if there is none."""
    determiner: str
    """What stood before the noun phrase, lower case: "", "a", "an", "any", "the", "any degree of", ..."""
    before: str
    """The question's words before the determiner."""
    after: str
    """The question's words after the noun phrase."""


# The parts that patterns are built of; texts have single blanks when they meet them.
_PIECES = {
    "x": "(?P<rest>.+)",
    "be": "(?P<be>is|are)",
    "which": "(?:which|what)",
    "tell": "(?:(?:can|could|would) you )?(?:tell me|determine|indicate|state|say|assess|confirm)",
    "see": "(?:do|can|could) (?:you|we|i) (?:see|spot|find|identify|detect|notice|make out)",
    "show": "(?:show|demonstrate|reveal|display|depict|exhibit|contain|have|has|look like it has|look like)",
    "look": "(?:look|appear|seem)",
    "seen": "(?:present|seen|visible|identified|appreciated|demonstrated|noted|evident|apparent|detected|observed"
    "|shown|visuali[sz]ed|located)",
    "kind_of_image": "(?:(?:chest|thoracic|frontal|current|given|provided|present|ap|pa|x-?ray|radiographic) )*",
    "image": "(?:images?|pictures?|pics?|photos?|x-?rays?|x rays?|cxrs?|radiographs?|films?|scans?|stud(?:y|ies)"
    "|exams?|examinations?)",
    "evidence": "(?:(?:(?:any|some|the|radiographic|radiological|imaging) )*(?:evidence|signs?|presence) of "
    "|findings consistent with )",
    "view": "(?:radiographic )?(?:view|projection)",
    "size": "(?:severity|level|degree(?: of severity)?)",
    "side": "(?:left|right|upper|lower|mid|middle|apical|basal|basilar|anterior|posterior|lateral|medial)",
    "lung": "(?:(?:lung )?(?:bases?|apex|apices|zones?|fields?)|lungs?|lobes?|hemithora(?:x|ces)|lingula|sides?"
    "|left|right|chest|thorax|(?:retrocardiac|perihilar) (?:region|area))",
    "elsewhere": "(?:hil(?:um|a)|hilar (?:region|area)|mediastinum|heart|aorta|aortic (?:arch|knob)|trachea|spine|ribs?"
    "|clavicles?|humerus|scapula|sternum|shoulders?|bones?|costophrenic angles?|(?:hemi)?diaphragms?|neck|breasts?"
    "|abdomen|stomach|soft tissues?|chest wall|thyroid|pleura|pleural spaces?|liver|spleen)",
}
_PIECES["the_image"] = "(?:(?:this|the|that|these) )?{kind_of_image}{image}".format_map(_PIECES)
_PIECES["subject"] = "(?:{the_image}|this(?: one)?|it)".format_map(_PIECES)
_PIECES["owner"] = "(?:{subject}|(?:the|this) patient|they|we|you|he|she)".format_map(_PIECES)
_PIECES["at"] = "(?:in|at|on|within|over|of) (?:(?:the|both|either) )?(?:{side} )*".format_map(_PIECES)


def _pattern(written: str) -> re.Pattern[str]:
    return re.compile(written.format_map(_PIECES), re.IGNORECASE)


# Openings that are the whole question, apart from what is cut off its end.
_WHOLE: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    ("normal", _pattern("(?:is|are) {subject} (?:normal|within normal limits)")),
    ("normal", _pattern("do(?:es)? {subject} {look} normal")),
    ("normal", _pattern("is (?:this|it) a normal {kind_of_image}{image}")),
    ("abnormality", _pattern("(?:is|are) {subject} abnormal")),
    ("abnormality", _pattern("do(?:es)? {subject} {look} (?:abnormal|wrong|off|bad)")),
    ("view", _pattern("(?:in )?{which} {view} (?:is|was) {subject}(?: taken| obtained| acquired)?(?: in| from)?")),
    ("view", _pattern("{which} {view} (?:is|was) (?:shown|taken|obtained|acquired)")),
    ("view", _pattern("(?:what is|{tell}) the {view}(?: of {subject})?")),
)

# Openings followed by a noun phrase; the flag says that "seen", "present" or the like must follow that.
_OPENINGS: tuple[tuple[Kind, bool, re.Pattern[str]], ...] = (
    ("level", False, _pattern("what {size} {be} {x}")),
    ("level", False, _pattern("(?:what is|{tell}|grade) the {size} of {x}")),
    ("level", False, _pattern("how (?:severe|bad) {be} {x}")),
    ("level", False, _pattern("how (?:severe|bad) do(?:es)? {x} look")),
    ("side", False, _pattern("{which} side (?:{be}|do you see|have we got) {x} on")),
    ("side", False, _pattern("on {which} side {be} {x}")),
    ("side", False, _pattern("(?:what is|{tell}) the laterality of {x}")),
    ("location", False, _pattern("where(?: in {the_image})? {be} {x}")),
    ("location", False, _pattern("where do you (?:see|spot) {x}")),
    ("location", False, _pattern("(?:what is|{tell}) the location of {x}")),
    ("type", False, _pattern("{which} (?:type|kind) {be} {x}")),
    (
        "type",
        False,
        _pattern(
            "{which} (?:type|kind) of {x} (?:(?:is|are) (?:it|this|there|{seen})|do you see|have we got)(?: here)?"
        ),
    ),
    ("type", False, _pattern("(?:what is|{tell}) the type of {x}")),
    ("presence", False, _pattern("(?:is|are) there {evidence}{x}")),
    ("presence", False, _pattern("{be} there {x}")),
    ("presence", False, _pattern("{see} {evidence}?{x}")),
    ("presence", False, _pattern("do(?:es)? {owner} {show} {evidence}?{x}")),
    ("presence", False, _pattern("(?:have (?:we|you) )?got {x}")),
    ("presence", False, _pattern("see (?=any ){x}")),
    ("presence", False, _pattern("{tell} (?:if|whether) there (?:is|are) {evidence}{x}")),
    ("presence", False, _pattern("{tell} (?:if|whether) there {be} {x}")),
    ("presence", True, _pattern("{tell} (?:if|whether) {evidence}?{x}")),
    ("presence", True, _pattern("(?:is|are) {evidence}{x}")),
    ("presence", True, _pattern("{be} {x}")),
    ("presence", False, _pattern("(?=any |even a ){x}")),
    ("abnormality", False, _pattern("(?:is )?{x}")),
)

# What is cut off the end of a question.
_MEANINGLESS = _pattern("(?:,? or not| at all| in here| here| in this one| in this patient| (?:in|on|by) {the_image})$")
_SEEN = _pattern(" (?:(?:is|are) )?{seen}$")
_IN_THE_LUNG = _pattern(" (?P<place>{at}{lung})$")
_ELSEWHERE = _pattern(" (?P<place>{at}{elsewhere})$")

_DETERMINER = _pattern("(?:any degree of|(?:even )?a little(?: bit of)?|any|some|an|a|the) ")
_ABNORMALITY = _pattern("abnormalit(?:y|ies)|abnormal findings?|(?:anything|something) (?:wrong|abnormal|off)")

# Words after which another wording may mean something else.
_NEGATION = _pattern(
    "no|not|non|none|nor|neither|never|nothing|zero|cannot|\\w+n't|(?:is|are|do|does|ca)nt|without|absen(?:t|ce)"
    "|lack\\w*|free (?:of|from)|rul(?:e|es|ed|ing) (?:\\w+ )?out|exclu\\w+|except|negative|den(?:y|ies|ied)|missing"
    "|clear|unremarkable|fail\\w*|unlikely|hardly|barely|resol\\w+|disappear\\w*|gone"
)
_COMPARISON = _pattern(
    "improv\\w+|wors\\w+|increas\\w+|decreas\\w+|chang\\w+|unchanged|compar\\w+|prior|previous\\w*|earlier|than|still"
    "|stable|progress\\w*|interval|new|newly|persist\\w*|since|again|recurr\\w*|larger|smaller|bigger|better|more|less"
    "|most|least|greater|fewer|residual|remaining|further|other|another|additional|else|grow\\w*|last|follow-up"
)
_SEVERAL = _pattern(
    "and|or|vs|versus|plus|but|two|three|several|multiple|many|all|every|each|only|just|rather|instead|same|because"
)
_UNSAFE = re.compile(
    rf"(?<![\w-])(?:{_NEGATION.pattern}|{_COMPARISON.pattern}|{_SEVERAL.pattern})(?![\w-])", re.IGNORECASE
)
_HARMLESS = re.compile(",? or not$|(?<!not) at all(?![\\w-])", re.IGNORECASE)

# Words that show that what was taken for a noun phrase is not one.
_NO_NOUN_WORDS = (
    "of for to from by as with in on at over within under around near between into during after before while both "
    "that which who what when where why how if whether then it its this these those there here they them he she you "
    "we i is are was were be been has have had do does did can could will would should may might must the a an any "
    "some enough much very too likely possible possibly probable probably suspected suspicious definite anything "
    "something finding findings evidence sign signs presence normal abnormal abnormality abnormalities history "
    "present seen visible identified appreciated demonstrated noted evident apparent detected observed shown located "
    "taken image imaging picture x-ray radiograph scan study view modality plane position patient even one now "
    "today currently yet"
)
_NO_NOUN = frozenset(_NO_NOUN_WORDS.split())


class _Noun(NamedTuple):
    determiner: str
    """The first one, lower case."""
    article: str
    """The last one: another than the first in "any a big heart"."""
    text: str
    """The noun phrase."""
    place: str
    """The anatomical phrases that followed it."""
    in_the_lung: bool
    """Whether no place is outside the lungs, where "a mass" would be no lung mass."""
    seen: bool
    """Whether "present" or the like followed."""
    start: int
    """Position of the determiner, or of the noun phrase without one."""
    end: int
    """Position after the noun phrase."""


def read(text: str) -> Asked | None:
    """What `text` asks, or None if that is not certain enough to say it in other words."""
    core = without_filler(text)
    if not core or len(core) > LONGEST or _is_unsafe(core):
        return None
    whole = _without_meaningless_end(core)
    for kind, pattern in _WHOLE:
        if pattern.fullmatch(whole):
            return Asked(kind, Name("", "mass"), None, "", "", core, "")
    for kind, must_be_seen, pattern in _OPENINGS:
        match = pattern.fullmatch(core)
        if match is None:
            continue
        noun = _read_noun(core, *match.span("rest"))
        if must_be_seen and not (noun.seen or _ABNORMALITY.fullmatch(noun.text)):
            continue
        asked = _asked(kind, noun, core, match.groupdict().get("be"))
        if asked is not None:
            return asked
    return None


def plain(text: str) -> str:
    """`text` with single blanks, none outside, and straight apostrophes."""
    return " ".join(text.replace("’", "'").split())


_END_MARKS = " ?.!,…"
_GREETING = re.compile(
    r"(?:so|hey(?: there)?|hi(?: there)?|hello|ok|okay|um"
    r"|(?:can|could|would) you (?:kindly |please )?tell me(?! if\b| whether\b| the\b))(?![\w'-])[ ,:.!]*",
    re.IGNORECASE,
)
_THANKS = re.compile(r"(?<![\w-])(?:thanks|thank you)$", re.IGNORECASE)
_PLEASE = re.compile(r",? ?(?<![\w-])(?:please|kindly)(?![\w-]),?", re.IGNORECASE)


def without_filler(text: str) -> str:
    """`plain(text)` without greetings, politeness and the marks at its end; empty if nothing else is there.

    A text longer than LONGEST loses no more than the marks.
    """
    before, text = "", plain(text).rstrip(_END_MARKS)
    while text != before and len(text) <= LONGEST:
        before = text
        text = _THANKS.sub("", plain(_PLEASE.sub("", text))).rstrip(_END_MARKS)
        greeting = _GREETING.match(text)
        text = text[greeting.end() :] if greeting else text
    return text


def _is_unsafe(core: str) -> bool:
    """Whether a word may turn, compare or split the meaning, or two findings are asked about."""
    core = _HARMLESS.sub("", core)
    term = find_term(core)
    if term is not None:
        # a name may hold such a word itself ("increased interstitial markings")
        core = f"{core[: term.start]};{core[term.end :]}"
    return _UNSAFE.search(core) is not None or find_term(core) is not None


def _without_meaningless_end(text: str) -> str:
    while (end := _MEANINGLESS.search(text)) is not None:
        text = text[: end.start()]
    return text


def _read_noun(core: str, start: int, end: int) -> _Noun:
    """Cut determiners off the front and everything that is no part of the noun phrase off the end."""
    before, determiner, article = start, "", ""
    while (word := _DETERMINER.match(core, start, end)) is not None:
        article = word.group().strip().lower()
        determiner = determiner or article
        start = word.end()
    place, in_the_lung, seen = "", True, False
    while exact_term(core[start:end]) is None:
        rest = core[start:end]
        if cut := _SEEN.search(rest):
            seen = True
        elif cut := _IN_THE_LUNG.search(rest) or _ELSEWHERE.search(rest):
            in_the_lung = in_the_lung and cut.re is _IN_THE_LUNG
            place = f"{cut['place']} {place}".rstrip()
        elif not (cut := _MEANINGLESS.search(rest)):
            break
        end = start + cut.start()
    return _Noun(determiner, article, core[start:end], place, in_the_lung, seen, before, end)


def _asked(kind: Kind, noun: _Noun, core: str, be: str | None) -> Asked | None:
    about_image = _ABNORMALITY.fullmatch(noun.text) is not None
    if about_image != (kind == "abnormality") and not (about_image and kind == "presence"):
        return None
    if kind == "presence" and noun.determiner == "the":
        # "Is the trachea seen?" does not ask whether there is one
        return None
    match = exact_term(noun.text)
    term = match.term if match is not None and noun.in_the_lung else None
    if about_image:
        kind, name = "abnormality", Name("abnormality", "count", "an")
    elif match is not None:
        uncounted = match.name.grammar == "mass" and noun.article in ("a", "an")
        # "a pleural effusion" keeps its article, though the name does not need one
        name = Name(match.name.text, "count", noun.article) if uncounted else match.name
    elif _is_noun(noun.text):
        name = _own_name(noun.text.lower() if core.isupper() else noun.text, noun.article, be)
    else:
        return None
    return Asked(kind, name, term, noun.place, noun.determiner, core[: noun.start], core[noun.end :])


def _is_noun(text: str) -> bool:
    words = text.lower().split()
    known = find_term(text)
    if known is not None and known.end < len(text):
        # "mass effect" is no mass, "effusions bilaterally" no noun phrase
        return False
    return 0 < len(words) <= LONGEST_NOUN and all(
        word.replace("-", "").isalpha() and word not in _NO_NOUN for word in words
    )


def _own_name(text: str, article: str, be: str | None) -> Name:
    """The grammar of a noun phrase that the lexicon does not have, from what stands around it."""
    if article in ("a", "an"):
        return Name(text, "count", indefinite_article(text))
    ends_as_plural = text.endswith("s") and not text.endswith(("ss", "is", "us"))
    if (be or "").lower() == "are" or (be is None and ends_as_plural):
        return Name(text, "plural")
    # "any" goes with counted and uncounted nouns alike, so keeping it is always right
    return Name(text, "count", "any") if article == "any" else Name(text, "mass")


def indefinite_article(text: str) -> str:
    """ "a" or "an", as the first word of `text` sounds."""
    first = text.lower()
    return "an" if first.startswith(tuple("aeiou")) and not first.startswith(("uni", "eu", "use")) else "a"

"""Reads what a question asks: its kind, its noun phrase and its place, or None where a rewording could change it.

A question is refused if any word could turn, split or compare its meaning; then its opening is looked up; then the
phrases that add no meaning, or a place, are cut off the end until only the noun phrase is left.
"""

import re
from typing import Literal, NamedTuple

from interp.lexicon import Name, Term, exact_term, find_term

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


PIECES = {
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
    "size": "(?:severity|level|degree|extent)",
    "side": "(?:left|right|upper|lower|mid|middle|apical|basal|basilar|anterior|posterior|lateral|medial)",
    "lung": "(?:(?:lung )?(?:bases?|apex|apices|zones?|fields?)|lungs?|lobes?|hemithora(?:x|ces)|lingula|sides?"
    "|left|right|chest|thorax|(?:retrocardiac|perihilar) (?:region|area))",
    "elsewhere": "(?:hil(?:um|a)|hilar (?:region|area)|mediastinum|heart|aorta|aortic (?:arch|knob)|trachea|spine|ribs?"
    "|clavicles?|humerus|scapula|sternum|shoulders?|bones?|costophrenic angles?|(?:hemi)?diaphragms?|neck|breasts?"
    "|abdomen|stomach|soft tissues?|chest wall|thyroid|pleura|pleural spaces?|liver|spleen)",
}
"""The parts that patterns are built of; texts have single blanks when they meet them."""
PIECES["the_image"] = "(?:(?:this|the|that|these) )?{kind_of_image}{image}".format_map(PIECES)
PIECES["subject"] = "(?:{the_image}|this(?: one)?|it|(?:the|this) patient|they|we|you|he|she)".format_map(PIECES)
PIECES["at"] = "(?:in|at|on|within|over|of) (?:(?:the|both|either) )?(?:{side} )*".format_map(PIECES)


def _pattern(written: str) -> re.Pattern[str]:
    return re.compile(written.format_map(PIECES), re.IGNORECASE)


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
    ("side", False, _pattern("{which} side {be} {x} on")),
    ("side", False, _pattern("on {which} side {be} {x}")),
    ("side", False, _pattern("(?:what is|{tell}) the laterality of {x}")),
    ("location", False, _pattern("where(?: in {the_image})? {be} {x}")),
    ("location", False, _pattern("where do you see {x}")),
    ("location", False, _pattern("(?:what is|{tell}) the location of {x}")),
    ("type", False, _pattern("{which} (?:type|kind) {be} {x}")),
    ("type", False, _pattern("{which} (?:type|kind) of {x} (?:is|are) (?:it|this|there|shown|seen|present)")),
    ("type", False, _pattern("(?:what is|{tell}) the type of {x}")),
    ("presence", False, _pattern("(?:is|are) there {evidence}{x}")),
    ("presence", False, _pattern("{be} there {x}")),
    ("presence", False, _pattern("{see} {evidence}?{x}")),
    ("presence", False, _pattern("do(?:es)? {subject} {show} {evidence}?{x}")),
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
_MEANINGLESS = _pattern(
    "(?:,? or not| at all| in here| here| in this one| in this patient| (?:in|on|by) {the_image})$"
)
_SEEN = _pattern(" (?:(?:is|are) )?{seen}$")
_IN_THE_LUNG = _pattern(" (?P<place>{at}{lung})$")
_ELSEWHERE = _pattern(" (?P<place>{at}{elsewhere})$")

_DETERMINER = _pattern("(?:any degree of|(?:even )?a little(?: bit of)?|any|some|an|a|the) ")
_ABNORMALITY = _pattern("abnormalit(?:y|ies)|abnormal findings?|(?:anything|something) (?:wrong|abnormal|off)")

# Words after which another wording may mean something else.
_NEGATION = _pattern(
    "no|not|non|none|nor|neither|never|nothing|cannot|\\w+n't|without|absen(?:t|ce)|lack\\w*|free (?:of|from)"
    "|rul(?:e|es|ed|ing) (?:\\w+ )?out|exclu\\w+|except|negative|den(?:y|ies|ied)|missing|clear|unremarkable|fail\\w*"
    "|unlikely|hardly|barely|resolv\\w+|disappear\\w*|gone"
)
_COMPARISON = _pattern(
    "improv\\w+|wors\\w+|increas\\w+|decreas\\w+|chang\\w+|unchanged|compar\\w+|prior|previous\\w*|earlier|than|still"
    "|stable|progress\\w*|interval|new|newly|persist\\w*|since|again|recurr\\w*|larger|smaller|bigger|better|more|less"
    "|most|least|greater|fewer|other|another|additional|else|grow\\w*|last|follow-up"
)
_SEVERAL = _pattern(
    "and|or|vs|versus|plus|but|two|three|several|multiple|many|all|every|each|only|just|rather|instead|same|because"
)
_UNSAFE = re.compile(
    rf"(?<![\w-])(?:{_NEGATION.pattern}|{_COMPARISON.pattern}|{_SEVERAL.pattern})(?![\w-])", re.IGNORECASE
)
_OR_NOT = re.compile(",? or not$", re.IGNORECASE)

# Words that show that what was taken for a noun phrase is not one.
_NO_NOUN = frozenset(
    "of for to from by as with in on at over within under around near between into during after before while both "
    "that which who what when where why how if whether then it its this these those there here they them he she you "
    "we i is are was were be been has have had do does did can could will would should may might must the a an any "
    "some enough much very too likely possible possibly probable probably suspected suspicious definite anything "
    "something finding findings evidence sign signs presence normal abnormal abnormality abnormalities history "
    "present seen visible identified appreciated demonstrated noted evident apparent detected observed shown located "
    "taken image picture x-ray radiograph patient".split()
)


class _Noun(NamedTuple):
    determiner: str
    text: str
    places: tuple[str, ...]
    in_the_lung: bool
    seen: bool
    start: int
    end: int


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


_END_MARKS = re.compile(r"[\s?.!,…]+$")
_GREETING = re.compile(
    r"(?:so|hey(?: there)?|hi(?: there)?|hello|ok|okay|um"
    r"|(?:can|could|would) you (?:kindly |please )?tell me(?! if\b| whether\b| the\b))(?![\w'-])[\s,:.!]*",
    re.IGNORECASE,
)
_THANKS = re.compile(r"[\s,.!?]*(?<![\w-])(?:thanks|thank you)$", re.IGNORECASE)
_PLEASE = re.compile(r",?\s*(?<![\w-])(?:please|kindly)(?![\w-]),?", re.IGNORECASE)


def without_filler(text: str) -> str:
    """`plain(text)` without greetings, politeness and the marks at its end; empty if nothing else is there."""
    before, text = None, plain(text)
    while text != before:
        before = text
        text = plain(_THANKS.sub("", _END_MARKS.sub("", _PLEASE.sub("", text))))
        greeting = _GREETING.match(text)
        text = text[greeting.end() :] if greeting else text
    return text


def _is_unsafe(core: str) -> bool:
    """Whether a word may turn, compare or split the meaning, or two findings are asked about."""
    core = _OR_NOT.sub("", core)
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
    determiner = ""
    while (word := _DETERMINER.match(core, start, end)) is not None:
        determiner = determiner or word.group().strip().lower()
        start = word.end()
    first = start - len(core[:start]) + len(core[:start])
    places: tuple[str, ...] = ()
    in_the_lung, seen = True, False
    while exact_term(core[start:end]) is None:
        rest = core[start:end]
        if cut := _MEANINGLESS.search(rest):
            pass
        elif cut := _SEEN.search(rest):
            seen = True
        elif cut := _IN_THE_LUNG.search(rest) or _ELSEWHERE.search(rest):
            in_the_lung = in_the_lung and cut.re is _IN_THE_LUNG
            places = (cut["place"], *places)
        else:
            break
        end = start + cut.start()
    return _Noun(determiner, core[start:end], places, in_the_lung, seen, first, end)

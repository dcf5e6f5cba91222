"""Parses a question about a radiograph into its kind, noun phrase and place, if it can be reworded safely.

A question is rejected if any word may negate, compare or split its meaning. Then its opening is looked up, and phrases
that name a place or add no meaning are cut off the end until only the noun phrase is left.
"""

import re
from typing import Literal, NamedTuple

from interp.questions.lexicon import Name, Term, exact_term, find_term

QuestionKind = Literal["presence", "abnormality", "normal", "view", "level", "location", "side", "type"]

LONGEST_QUESTION = 300
"""Longest text that is parsed [characters]; a longer one is not a single question."""

LONGEST_NOUN_PHRASE = 6
"""Longest noun phrase [words]; a longer one is a clause."""


class ParsedQuestion(NamedTuple):
    """What a question asks."""

    kind: QuestionKind
    """What is asked of a finding (presence, level, location, side, type) or the image (abnormality, normal, view)."""
    noun: Name
    """The noun phrase as the question words it; empty for questions about the image."""
    term: Term | None
    """The finding, if the noun phrase is exactly one of its names and the place does not make it another finding."""
    place: str
    """The anatomical phrase, verbatim, such as "in the left lung"; empty if there is none."""
    determiner: str
    """The words before the noun phrase in lower case: "", "a", "an", "any", "the", "any degree of", ..."""
    before: str
    """The question's words before the determiner."""
    after: str
    """The question's words after the noun phrase."""


# The parts of the patterns below, which are matched against single-spaced text.
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


# Openings that make up the whole question, apart from what is cut off its end.
_WHOLE: tuple[tuple[QuestionKind, re.Pattern[str]], ...] = (
    ("normal", _pattern("(?:is|are) {subject} (?:normal|within normal limits)")),
    ("normal", _pattern("do(?:es)? {subject} {look} normal")),
    ("normal", _pattern("is (?:this|it) a normal {kind_of_image}{image}")),
    ("abnormality", _pattern("(?:is|are) {subject} abnormal")),
    ("abnormality", _pattern("do(?:es)? {subject} {look} (?:abnormal|wrong|off|bad)")),
    ("view", _pattern("(?:in )?{which} {view} (?:is|was) {subject}(?: taken| obtained| acquired)?(?: in| from)?")),
    ("view", _pattern("{which} {view} (?:is|was) (?:shown|taken|obtained|acquired)")),
    ("view", _pattern("(?:what is|{tell}) the {view}(?: of {subject})?")),
)

# Openings followed by a noun phrase; the flag requires "seen", "present" or the like after it.
_OPENINGS: tuple[tuple[QuestionKind, bool, re.Pattern[str]], ...] = (
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

# Phrases that are cut off the end of a question.
_MEANINGLESS = _pattern("(?:,? or not| at all| in here| here| in this one| in this patient| (?:in|on|by) {the_image})$")
_SEEN = _pattern(" (?:(?:is|are) )?{seen}$")
_IN_THE_LUNG = _pattern(" (?P<place>{at}{lung})$")
_ELSEWHERE = _pattern(" (?P<place>{at}{elsewhere})$")

_DETERMINER = _pattern("(?:any degree of|(?:even )?a little(?: bit of)?|any|some|an|a|the) ")
_ABNORMALITY = _pattern("abnormalit(?:y|ies)|abnormal findings?|(?:anything|something) (?:wrong|abnormal|off)")

# Words that make rewording unsafe.
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

# Words that occur in no noun phrase.
_NOT_IN_NOUN_PHRASE_WORDS = (
    "of for to from by as with in on at over within under around near between into during after before while both "
    "that which who what when where why how if whether then it its this these those there here they them he she you "
    "we i is are was were be been has have had do does did can could will would should may might must the a an any "
    "some enough much very too likely possible possibly probable probably suspected suspicious definite anything "
    "something finding findings evidence sign signs presence normal abnormal abnormality abnormalities history "
    "present seen visible identified appreciated demonstrated noted evident apparent detected observed shown located "
    "taken image imaging picture x-ray radiograph scan study view modality plane position patient even one now "
    "today currently yet"
)
_NOT_IN_NOUN_PHRASE = frozenset(_NOT_IN_NOUN_PHRASE_WORDS.split())


class _NounPhrase(NamedTuple):
    determiner: str
    """The first determiner, in lower case."""
    article: str
    """The last determiner, which differs from the first in "any a big heart"."""
    text: str
    """The words of the noun phrase."""
    place: str
    """The anatomical phrases after it."""
    in_the_lung: bool
    """Whether every place is inside the lungs; elsewhere "a mass" is not a lung mass."""
    seen: bool
    """Whether "present" or the like followed."""
    start: int
    """Position of the determiner, or of the noun phrase if it has none."""
    end: int
    """Position after the noun phrase."""


def parse_question(text: str) -> ParsedQuestion | None:
    """What `text` asks; None if that is not certain enough to reword it."""
    core = without_filler(text)
    if not core or len(core) > LONGEST_QUESTION or _is_unsafe(core):
        return None
    whole = _without_meaningless_end(core)
    for kind, pattern in _WHOLE:
        if pattern.fullmatch(whole):
            return ParsedQuestion(kind, Name("", "mass"), None, "", "", core, "")
    for kind, must_be_seen, pattern in _OPENINGS:
        match = pattern.fullmatch(core)
        if match is None:
            continue
        noun = _parse_noun_phrase(core, *match.span("rest"))
        if must_be_seen and not (noun.seen or _ABNORMALITY.fullmatch(noun.text)):
            continue
        parsed = _with_noun_phrase(kind, noun, core, match.groupdict().get("be"))
        if parsed is not None:
            return parsed
    return None


def single_spaced(text: str) -> str:
    """`text` with single spaces, none at its ends, and straight apostrophes."""
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
    """The single-spaced text without greetings, politeness and final punctuation; empty if nothing else is left.

    A text longer than LONGEST_QUESTION loses only its final punctuation.
    """
    before, text = "", single_spaced(text).rstrip(_END_MARKS)
    while text != before and len(text) <= LONGEST_QUESTION:
        before = text
        text = _THANKS.sub("", single_spaced(_PLEASE.sub("", text))).rstrip(_END_MARKS)
        greeting = _GREETING.match(text)
        text = text[greeting.end() :] if greeting else text
    return text


def _is_unsafe(core: str) -> bool:
    """Whether a word may negate, compare or split the meaning, or the question names two findings."""
    core = _HARMLESS.sub("", core)
    term = find_term(core)
    if term is not None:
        # The name itself may contain such a word ("increased interstitial markings").
        core = f"{core[: term.start]};{core[term.end :]}"
    return _UNSAFE.search(core) is not None or find_term(core) is not None


def _without_meaningless_end(text: str) -> str:
    while (end := _MEANINGLESS.search(text)) is not None:
        text = text[: end.start()]
    return text


def _parse_noun_phrase(core: str, start: int, end: int) -> _NounPhrase:
    """Cut determiners off the front of core[start:end], and everything after the noun phrase off its end."""
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
    return _NounPhrase(determiner, article, core[start:end], place, in_the_lung, seen, before, end)


def _with_noun_phrase(kind: QuestionKind, noun: _NounPhrase, core: str, be: str | None) -> ParsedQuestion | None:
    """The parsed question, or None if `noun` is not a noun phrase that this kind of question can ask about."""
    about_image = _ABNORMALITY.fullmatch(noun.text) is not None
    if about_image != (kind == "abnormality") and not (about_image and kind == "presence"):
        return None
    if kind == "presence" and noun.determiner == "the":
        # "Is the trachea seen?" does not ask whether there is one.
        return None
    match = exact_term(noun.text)
    term = match.term if match is not None and noun.in_the_lung else None
    if about_image:
        kind, name = "abnormality", Name("abnormality", "count", "an")
    elif match is not None:
        uncounted = match.name.grammar == "mass" and noun.article in ("a", "an")
        # "a pleural effusion" keeps its article, although the name needs none.
        name = Name(match.name.text, "count", noun.article) if uncounted else match.name
    elif _is_noun_phrase(noun.text):
        name = _unlisted_name(noun.text.lower() if core.isupper() else noun.text, noun.article, be)
    else:
        return None
    return ParsedQuestion(kind, name, term, noun.place, noun.determiner, core[: noun.start], core[noun.end :])


def _is_noun_phrase(text: str) -> bool:
    words = text.lower().split()
    known = find_term(text)
    if known is not None and known.end < len(text):
        # "mass effect" is not a mass, and "effusions bilaterally" is not a noun phrase.
        return False
    return 0 < len(words) <= LONGEST_NOUN_PHRASE and all(
        word.replace("-", "").isalpha() and word not in _NOT_IN_NOUN_PHRASE for word in words
    )


def _unlisted_name(text: str, article: str, be: str | None) -> Name:
    """A noun phrase that is not in the lexicon, with its grammar guessed from its article and verb."""
    if article in ("a", "an"):
        return Name(text, "count", indefinite_article(text))
    ends_as_plural = text.endswith("s") and not text.endswith(("ss", "is", "us"))
    if (be or "").lower() == "are" or (be is None and ends_as_plural):
        return Name(text, "plural")
    # "any" fits countable and uncountable nouns alike, so keeping it is always correct.
    return Name(text, "count", "any") if article == "any" else Name(text, "mass")


def indefinite_article(text: str) -> str:
    """The indefinite article for `text`, guessed from its first letters."""
    first = text.lower()
    return "an" if first.startswith(tuple("aeiou")) and not first.startswith(("uni", "eu", "use")) else "a"

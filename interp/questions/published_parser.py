"""How PSF-Med reads yes or no out of a generated answer (arXiv 2602.21428), beside our own stricter rules.

`interp.questions.generated_answers.parse_yes_no` leaves undecided texts out; this parser decides nearly all of them.
"""

import re

_NORMAL = frozenset({"normal", "clear"})
_FIRST = {"yes": "yes", "y": "yes", "no": "no", "n": "no"}


def parse_as_published(text: str) -> str | None:
    """The answer to a closed question as PSF-Med parses it: "yes", "no", or None for an answer that is excluded.

    By keyword: a text with one of the words yes and no means that; without either, normal or clear means no, whatever
    was asked. Otherwise the first word decides, if it is yes or no or its letter. The paper gives these rules in prose;
    how both words in one text are read, which it leaves open, is ours: the first word decides.
    """
    words = re.findall(r"[^\W_]+", text.casefold())
    said = {word for word in words if word in ("yes", "no")}
    if len(said) == 1:
        return said.pop()
    if not said and not _NORMAL.isdisjoint(words):
        return "no"
    first = re.match(r"\W*([^\W_]+)(?![\w/])", text.casefold())
    return _FIRST.get(words[0]) if said else _FIRST.get(first[1]) if first else None

"""The question types of data sets by our names."""

from interp.questions.answers import ANSWER_SETS

_TYPES = {"severity": "level", "abnormalities": "abnormality", "position": "location", "projection": "view"}


def our_type(given: str | None) -> str | None:
    """Our name of a data set's question type; None if it has none of ours."""
    name = (given or "").strip().lower().replace(" ", "_")
    name = _TYPES.get(name, name)
    return name if name in ANSWER_SETS else None

"""What every reader yields: a question as its source has it, or a row that can not become one."""

from typing import Any, Literal, NamedTuple

from pydantic import ValidationError

from interp.questions.schema import Paraphrase


class Record(NamedTuple):
    """A question as a data set gives it, not yet checked."""

    where: str
    """File and row, for messages; no content."""
    id: str
    """Unique in the source."""
    image: str
    """Image file, relative to the image root, or its bare name or stem."""
    patient: str | None
    """Groups images; None where the source does not tell."""
    type: str | None
    """One of `interp.questions.answers.ANSWER_SETS`; None where the source does not tell."""
    question: str
    """The original wording."""
    answer: str | None
    """As given; None where the source has none."""
    paraphrases: list[Paraphrase]
    """Other wordings."""
    split: str | None
    """As given (train, val, test, ...); None where the source has none."""
    register: Literal["formal", "casual"] | None = None
    """Tone of the original wording, where the source tells."""
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    """Lesion boxes, x0 y0 x1 y1 in pixels."""
    dropped: tuple[str, ...] = ()
    """Why other wordings of this question were left out, one reason each."""


class Dropped(NamedTuple):
    """A row that can not become a question."""

    where: str
    """File and row."""
    reason: str
    """Why, in words that many rows can share; no content."""


def paraphrase_of(text: str | None, phenomenon: str | None = None, register: Any = None) -> Paraphrase | None:
    """A wording as a paraphrase; None if it is blank or no text."""
    try:
        return Paraphrase.model_validate({"text": text, "phenomenon": phenomenon, "register": register})
    except ValidationError:
        return None

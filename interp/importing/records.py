"""What a reader yields: questions as their source gives them, and rows that cannot become questions."""

from typing import Any, NamedTuple

from pydantic import ValidationError

from interp.importing.cells import EmbeddedImage, SeveralImages
from interp.questions.schema import Paraphrase, Register


class SourceQuestion(NamedTuple):
    """A question as its data set gives it, before any check."""

    where: str
    """File and row for messages, without content."""
    id: str
    """Id of the question in the source."""
    image: str | EmbeddedImage
    """Path of the image file, or just its name or stem; or the image itself, where the table holds it."""
    patient: str | None
    """Id of the patient; None where the source does not say."""
    type: str | None
    """The source's own question type; None where it does not say."""
    question: str
    """The original wording."""
    answer: str | None
    """The true answer as the source writes it; None where it has none."""
    paraphrases: list[Paraphrase]
    """Other wordings of the question."""
    split: str | None
    """The split as the source writes it (train, val, test, ...); None where it has none."""
    register: Register | None = None
    """Tone of the original wording; None where the source does not say."""
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    """Lesion boxes, x0 y0 x1 y1 in pixels of the image as displayed."""
    yes_no: bool | None = None
    """Whether the source says that the question asks for yes or no; None where it does not say."""
    dropped: tuple[str, ...] = ()
    """The reasons why other wordings of this question were left out, one per wording."""


class DroppedRow(NamedTuple):
    """A row that cannot become a question."""

    where: str
    """File and row for messages, without content."""
    reason: str
    """Why it is left out, in words that many rows can share, without content."""


def paraphrase_of(text: str | None, phenomenon: str | None = None, register: Any = None) -> Paraphrase | None:
    """A wording as a paraphrase; None if it is blank, too long or not text."""
    try:
        return Paraphrase.model_validate({"text": text, "phenomenon": phenomenon, "register": register})
    except ValidationError:
        return None


def image_problem(image: str | EmbeddedImage | SeveralImages | None) -> str | None:
    """The reason why a row with such an image is left out; None if it has one image."""
    if isinstance(image, SeveralImages):
        return "several images"
    return "no image" if image is None else None

"""A question, its paraphrases, its image and its patient; reading, checking and splitting them.

The file format is JSON Lines, one question a line, fields as in `Question`. Images are paths relative to the
image root (by default the folder of the file).
"""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, field_validator

from interp.questions.answers import ANSWER_SETS, CLOSED_ANSWERS, asks_yes_or_no, normalize_answer

LONGEST = 4000
"""Characters of a wording, an id or a path: no question is so long, and what reads them takes its time."""


class Paraphrase(BaseModel):
    """Another wording of a question: with the same meaning, unless an operator says otherwise."""

    model_config = ConfigDict(extra="forbid")
    text: str = Field(min_length=1, max_length=LONGEST, description="the wording")
    phenomenon: str | None = Field(None, description="what changed, e.g. lexical_substitution")
    register_: Literal["formal", "casual"] | None = Field(None, alias="register", description="tone of the wording")
    operator: str | None = Field(
        None,
        description="what inverts the meaning (interp.questions.polarity); such a wording is set apart, never measured",
    )

    @field_validator("text")
    @classmethod
    def _not_blank(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("the text is blank")
        return text


class Question(BaseModel):
    """One question about one image, with its paraphrases."""

    model_config = ConfigDict(extra="forbid")
    id: str = Field(min_length=1, max_length=LONGEST, description="unique in the file")
    image: str = Field(min_length=1, max_length=LONGEST, description="image file, relative to the image root")
    patient: str | None = Field(None, description="groups images for splits and intervals; the image where absent")
    type: str = Field(description="one of ANSWER_SETS")
    question: str = Field(min_length=1, max_length=LONGEST, description="the original wording")
    answer: str | None = Field(
        None,
        min_length=1,
        max_length=LONGEST,
        description="the true answer; where absent the question can flip, but nothing else",
    )
    paraphrases: list[Paraphrase] = Field(default_factory=list, description="other wordings")
    register_: Literal["formal", "casual"] | None = Field(None, alias="register", description="tone of `question`")
    boxes: list[tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]] = Field(
        default_factory=list, description="lesion boxes, x0 y0 x1 y1 in pixels of the image file"
    )
    split: Literal["train", "test"] | None = Field(None, description="fixed split; by hash of the patient where absent")

    @field_validator("question")
    @classmethod
    def _not_blank(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("the text is blank")
        return text

    @field_validator("answer")
    @classmethod
    def _says_something(cls, text: str | None) -> str | None:
        if text is not None and not any(map(str.isalnum, text)):
            raise ValueError("the answer has no letter or digit; leave the field out where it is unknown")
        return text

    @field_validator("type")
    @classmethod
    def _known_type(cls, type_: str) -> str:
        if type_ not in ANSWER_SETS:
            raise ValueError(f"found type {type_!r}, expected one of {', '.join(ANSWER_SETS)}")
        return type_

    @field_validator("patient")
    @classmethod
    def _known_patient(cls, patient: str | None) -> str | None:
        # An empty cell names nobody; all that have one would be one patient.
        return patient if patient and patient.strip() else None

    @field_validator("boxes")
    @classmethod
    def _in_order(cls, boxes: list[tuple[float, ...]]) -> list[tuple[float, ...]]:
        for x0, y0, x1, y1 in boxes:
            if not (x0 < x1 and y0 < y1):
                raise ValueError("a box is not x0 y0 x1 y1 with x0 < x1 and y0 < y1")
        return boxes

    @property
    def group(self) -> str:
        """The patient, or the image where no patient is given: the unit of splits and intervals."""
        return self.patient if self.patient is not None else Path(self.image).as_posix()

    @property
    def true_answer(self) -> str | None:
        """The answer in its one spelling, None where it is unknown."""
        return None if self.answer is None else normalize_answer(self.answer, self.type)

    @property
    def closed(self) -> bool:
        """Whether the answer is yes or no, so that an answer margin exists; by form where the answer is unknown."""
        if self.answer is None:
            return asks_yes_or_no(self.question)
        return self.true_answer in CLOSED_ANSWERS

    @property
    def same_meaning(self) -> list[Paraphrase]:
        """The paraphrases that ask for the same: all but those that an operator inverts."""
        return [p for p in self.paraphrases if p.operator is None]

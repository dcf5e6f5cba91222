"""A question with its paraphrases, its image and its patient: one line of a JSON Lines file.

`Question` lists the fields. `interp.questions.files` reads, checks and splits such files.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, field_validator

from interp.questions.answers import ANSWER_SETS, CLOSED_ANSWERS, answer_text, normalize_answer
from interp.questions.yes_no_form import question_form

Register = Literal["formal", "casual"]
"""Tone of a wording: that of reports or that of speech."""

LONGEST_TEXT = 4000
"""Longest wording, id or path that is accepted [characters], which bounds the time that the parsers take."""


HIDDEN = ("image", "patient")
"""Fields that no representation shows, because they may identify a patient."""


def _shown(fields: Iterable[tuple[str | None, Any]]) -> Iterable[tuple[str | None, Any]]:
    """The fields of a representation: by the names that files and constructors use, without those in HIDDEN."""
    return [("register" if name == "register_" else name, value) for name, value in fields if name not in HIDDEN]


class Paraphrase(BaseModel):
    """Another wording of a question; it asks for the same unless `operator` names what inverts it."""

    model_config = ConfigDict(extra="forbid")
    text: str = Field(min_length=1, max_length=LONGEST_TEXT, description="the wording")
    phenomenon: str | None = Field(None, description="what changed, e.g. lexical_substitution")
    register_: Register | None = Field(None, alias="register", description="tone of the wording")
    operator: str | None = Field(
        None,
        description="what inverts the meaning (interp.questions.polarity); such a wording is kept but never measured",
    )

    @field_validator("text")
    @classmethod
    def _not_blank(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("the text is blank")
        return text

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        return _shown(super().__repr_args__())


class Question(BaseModel):
    """One question about one image, with its paraphrases.

    >>> interp.Question(
    ...     id="1",
    ...     image="1.png",
    ...     type="presence",
    ...     question="Is there effusion?",
    ...     answer="yes",
    ...     paraphrases=[{"text": "Any fluid?", "register": "casual"}],
    ... ).closed
    True
    """

    model_config = ConfigDict(extra="forbid")
    id: str = Field(min_length=1, max_length=LONGEST_TEXT, description="unique in the file")
    image: str = Field(min_length=1, max_length=LONGEST_TEXT, description="image file, relative to the image root")
    patient: str | None = Field(None, description="unit of splits and intervals; the image where absent")
    type: str = Field(description="one of ANSWER_SETS")
    question: str = Field(min_length=1, max_length=LONGEST_TEXT, description="the original wording")
    answer: str | None = Field(
        None,
        min_length=1,
        max_length=LONGEST_TEXT,
        description="the true answer; a question without one can flip, but has no accuracy",
    )
    paraphrases: list[Paraphrase] = Field(default_factory=list, description="other wordings")
    register_: Register | None = Field(None, alias="register", description="tone of `question`")
    boxes: list[tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]] = Field(
        default_factory=list, description="lesion boxes, x0 y0 x1 y1 in pixels of the image as displayed"
    )
    split: Literal["train", "test"] | None = Field(None, description="fixed split; by hash of the patient where absent")

    @field_validator("question")
    @classmethod
    def _not_blank(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("the text is blank")
        return text

    @field_validator("answer", mode="before")
    @classmethod
    def _in_text(cls, answer: Any) -> Any:
        return answer_text(answer)

    @field_validator("answer")
    @classmethod
    def _has_letter_or_digit(cls, text: str | None) -> str | None:
        if text is not None and not any(map(str.isalnum, text)):
            raise ValueError("the answer has no letter or digit; leave the field out where it is unknown")
        return text

    @field_validator("type")
    @classmethod
    def _is_known_type(cls, type_: str) -> str:
        if type_ not in ANSWER_SETS:
            raise ValueError(f"found type {type_!r}, expected one of {', '.join(ANSWER_SETS)}")
        return type_

    @field_validator("patient")
    @classmethod
    def _names_somebody(cls, patient: str | None) -> str | None:
        # Rows with an empty cell would otherwise all count as one patient.
        return patient if patient and patient.strip() else None

    @field_validator("boxes")
    @classmethod
    def _has_area(cls, boxes: list[tuple[float, ...]]) -> list[tuple[float, ...]]:
        for x0, y0, x1, y1 in boxes:
            if not (x0 < x1 and y0 < y1):
                raise ValueError("a box is not x0 y0 x1 y1 with x0 < x1 and y0 < y1")
        return boxes

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        return _shown(super().__repr_args__())

    @property
    def group(self) -> str:
        """The patient, or the image where no patient is given: the unit of splits and intervals."""
        return self.patient if self.patient is not None else Path(self.image).as_posix()

    @property
    def true_answer(self) -> str | None:
        """The answer in the one spelling that is trained and judged (`normalize_answer`); None where it is unknown."""
        return None if self.answer is None else normalize_answer(self.answer, self.type, self.question)

    @property
    def closed(self) -> bool:
        """Whether the answer is yes or no, so that a margin exists; judged by the question's form if it is unknown.

        A choice ("left or right?") is never closed, and without an answer a question of type presence is, unless its
        form says otherwise.
        """
        form = question_form(self.question)
        if self.answer is None:
            return form == "yes-no" or (form is None and self.type == "presence")
        return form != "choice" and self.true_answer in CLOSED_ANSWERS

    @property
    def same_meaning(self) -> list[Paraphrase]:
        """The paraphrases that ask for the same: all without an inverting operator."""
        return [p for p in self.paraphrases if p.operator is None]

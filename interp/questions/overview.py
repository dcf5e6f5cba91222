"""What a set of questions allows to be measured, and in plain words what it lacks."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from interp.questions.files import given_questions
from interp.questions.schema import Question


@dataclass(frozen=True, repr=False)
class QuestionsOverview:
    """What some questions hold, as counts.

    >>> interp.describe_questions(questions[:10]).questions
    10
    """

    questions: int
    """Number of questions."""
    patients: int
    """Number of patients, or of images where patients are unknown."""
    closed: int
    """Number of yes/no questions."""
    reworded: int
    """Number of yes/no questions with another wording: only these can flip."""
    registers: bool
    """Whether both formal and casual wordings are marked."""
    answered: int
    """Number of questions whose true answer is known."""
    boxed: int
    """Number of yes/no questions with a lesion box and the true answer yes."""

    @property
    def can_flip(self) -> bool:
        """Whether a search is possible."""
        return self.reworded > 0

    @property
    def can_train(self) -> bool:
        """Whether an adapter can be trained, and accuracy be measured."""
        return self.answered > 0

    @property
    def can_ground(self) -> bool:
        """Whether it can be measured where a model looks."""
        return self.boxed > 0

    def sentences(self) -> list[str]:
        """What there is, and what is missing with what follows from that, without any question."""
        said = [
            f"{self.questions:,} questions of {self.patients:,} patients: {self.closed:,} ask for yes or no, "
            f"{self.reworded:,} of these have another wording, {self.answered:,} have a true answer, and "
            f"{self.boxed:,} a lesion box."
        ]
        if not self.can_flip:
            said.append("No yes/no question has another wording, so none can flip. `interp paraphrase` adds wordings.")
        elif not self.registers:
            said.append("No wordings are marked as formal and casual, so the register is not tested.")
        if not self.can_train:
            said.append("No question has a true answer, so accuracy is unknown and nothing can be trained.")
        if not self.can_ground:
            said.append("No question to be answered yes has a lesion box, so where a model looks is not scored.")
        return said

    def __repr__(self) -> str:
        return "\n".join(self.sentences())

    def _repr_html_(self) -> str:
        return "".join(f"<p>{escape(sentence)}</p>" for sentence in self.sentences())


def describe_questions(questions: Sequence[Question] | str | Path) -> QuestionsOverview:
    """What these questions, loaded or in a JSON Lines file, allow to be measured. It names no question.

        >>> about = interp.describe_questions(questions)
        >>> about
        240 questions of ... patients: ...
        >>> about.can_flip, about.can_train
        (True, True)

    Raises InputError as `load_questions` does.
    """
    asked = given_questions(questions)
    closed = [q for q in asked if q.closed]
    reworded = [q for q in closed if q.same_meaning]
    registers = {register for q in reworded for register in (q.register_, *(p.register_ for p in q.same_meaning))}
    return QuestionsOverview(
        questions=len(asked),
        patients=len({q.group for q in asked}),
        closed=len(closed),
        reworded=len(reworded),
        registers={"formal", "casual"} <= registers,
        answered=sum(q.answer is not None for q in asked),
        boxed=sum(bool(q.boxes) and q.true_answer == "yes" for q in closed),
    )

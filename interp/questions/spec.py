"""Which questions to read: the settings that the commands share."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from interp.paths import EMBEDDED, WORLD
from interp.questions.splits import Split
from interp.runtime.errors import InputError
from interp.runtime.options import option

if TYPE_CHECKING:
    from interp.questions.schema import Question


@dataclass(frozen=True)
class DataSpec:
    """A file of questions and the part of it that is used.

    >>> data = interp.DataSpec("mine.jsonl", images="images", limit=500)
    >>> data.split, data.test_split  # to train on, and to evaluate on
    ('train', 'test')
    """

    questions: str | Path = option(
        WORLD / "questions.jsonl",
        "JSON Lines file, one question with its paraphrases per line.",
        shown=EMBEDDED,
        path=True,
    )
    images: str | Path | None = option(
        None, "Folder that the image paths are relative to.", shown="the folder of --questions", path=True
    )
    split: Split = option("train", "Questions to train on.")
    test_split: Split = option("test", "Questions to evaluate on; no patient may be in both splits.")
    limit: int | None = option(None, "Take only the first N questions of a split.", min=1, shown="all")

    def load(self) -> "list[Question]":
        """The questions of `split`. Raises InputError as `interp.questions.files.load_questions`."""
        return self._read(self.split)[: self.limit]

    def load_test(self) -> "list[Question]":
        """The questions of `test_split`. Raises InputError as `interp.questions.files.load_questions`."""
        return self._read(self.test_split)[: self.limit]

    def load_splits(self) -> "tuple[list[Question], list[Question]]":
        """The answered questions of `split`, to train on, and the questions of `test_split`, to evaluate on.

        Raises InputError as `interp.questions.files.load_questions`, if a patient is in both splits, and if no question
        to train on has an answer.
        """
        training, test = (self._read(part) for part in (self.split, self.test_split))
        shared = {q.group for q in training} & {q.group for q in test}
        if shared:
            raise InputError(
                f"{len(shared)} patients are in both the training and the test questions, so the evaluation would "
                "not be of held-out patients. Give --split and --test-split that do not overlap."
            )
        training = [q for q in training if q.answer is not None]
        if not training:
            raise InputError(
                f"{self.questions}: none of the questions to train on has an answer. Add the 'answer' fields."
            )
        return training[: self.limit], test[: self.limit]

    def _read(self, split: Split) -> "list[Question]":
        # Imported here, because reading needs pydantic, and `--help` should be quick.
        from interp.questions.files import load_questions

        return load_questions(self.questions, self.images, split)


@dataclass(frozen=True)
class LoadedQuestions(DataSpec):
    """Questions in memory in place of a file."""

    loaded: "tuple[Question, ...]" = ()
    """The questions of all splits that are used."""

    def _read(self, split: Split) -> "list[Question]":
        from interp.questions.files import split_of

        chosen = [q for q in self.loaded if split == "all" or split_of(q) == split]
        if not chosen:
            raise InputError(
                f"None of the {len(self.loaded)} questions given is in split {split!r}. Load them with "
                "load_questions(..., split='all')."
            )
        return chosen


def given_data(data: "DataSpec | str | Path | Sequence[Question]") -> DataSpec:
    """The parameter `data` of a function: a DataSpec as it is, one of a JSON Lines file, or one of loaded questions.

    Raises InputError for anything else.
    """
    from interp.questions.schema import Question
    from interp.runtime.arguments import expect_each

    if isinstance(data, DataSpec):
        return data
    if isinstance(data, str | Path):
        return DataSpec(data)
    expect_each("data", data, Question)
    return LoadedQuestions("the questions given", loaded=tuple(data))

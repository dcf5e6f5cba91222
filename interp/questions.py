"""A question, its paraphrases, its image and its patient; reading, checking and splitting them.

The file format is JSON Lines, one question a line, fields as in `Question`. Images are paths relative to the
image root (by default the folder of the file).
"""

import hashlib
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, field_validator

from interp.answers import ANSWER_SETS, CLOSED_ANSWERS, asks_yes_or_no, normalize_answer
from interp.demo import WORLD
from interp.documents import parse_json
from interp.errors import InputError
from interp.files import write_text
from interp.image_paths import climbs_out, is_image_file

log = logging.getLogger(__name__)
Split = Literal["train", "test", "all"]
LONGEST = 4000
"""Characters of a wording, an id or a path: no question is so long, and what reads them takes its time."""


class Paraphrase(BaseModel):
    """Another wording of a question: with the same meaning, unless an operator says otherwise."""

    model_config = ConfigDict(extra="forbid")
    text: str = Field(min_length=1, max_length=LONGEST, description="the wording")
    phenomenon: str | None = Field(None, description="what changed, e.g. lexical_substitution")
    register_: Literal["formal", "casual"] | None = Field(None, alias="register", description="tone of the wording")
    operator: str | None = Field(
        None, description="what inverts the meaning (interp.inversion); such a wording is set apart, never measured"
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


def load_questions(
    path: str | Path = WORLD / "questions.jsonl", images: str | Path | None = None, split: Split = "all"
) -> list[Question]:
    """Read a JSON Lines file of questions, by default the embedded world's; every `image` returned is an absolute path.

    Where no patient is given, `patient` becomes the image as the file has it, so that splits and intervals are the same
    wherever the images lie.
    Raises InputError naming the row for anything that is not as the format says, and if the split is empty. No
    message holds what a row says, but for the name of its type: the row is enough to look it up.
    """
    path = Path(path)
    root = Path(images) if images is not None else path.parent
    if not path.is_file():
        wrong = "is a folder" if path.is_dir() else "no such file"
        raise InputError(f"{path}: {wrong}. Give --questions a JSON Lines file, one question a line.")
    if not root.is_dir():
        raise InputError(f"{root}: no such folder. Give --images the folder that the 'image' fields are relative to.")
    root = root.absolute()
    questions: list[Question] = []
    row_of: dict[str, int] = {}
    with path.open(encoding="utf-8-sig") as lines:
        try:
            for row, line in enumerate(lines, start=1):
                if line.strip():
                    question = _parse(line, f"{path}, row {row}")
                    _check(question, f"{path}, row {row}", root, row_of)
                    row_of[question.id] = row
                    absolute = {"image": str(root / question.image), "patient": question.group}
                    questions.append(question.model_copy(update=absolute))
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}: not UTF-8 text ({error.reason} at byte {error.start}). Save it as UTF-8."
            ) from None
    _check_splits(questions, path, row_of)
    if not questions:
        raise InputError(f"{path}: holds no questions. Write one a line.")
    chosen = [q for q in questions if split == "all" or split_of(q) == split]
    if not chosen:
        raise InputError(
            f"{path}: {len(questions)} questions, none in split {split!r}. Check the 'split' fields or use --split all."
        )
    patients = len({q.group for q in chosen})
    log.info("%s: %d questions of %d patients (%s split)", path.name, len(chosen), patients, split)
    return chosen


def write_questions(questions: Iterable[Question], path: Path, images: Path) -> None:
    """Write questions as JSON Lines, whole or not at all, their images relative to the folder `images`."""
    lines = []
    for question in questions:
        inside = Path(question.image)
        if inside.is_absolute():
            inside = inside.relative_to(images.absolute())
        row = question.model_copy(update={"image": inside.as_posix()})
        lines.append(row.model_dump_json(by_alias=True, exclude_none=True, exclude_defaults=True) + "\n")
    write_text(path, "".join(lines))


def _parse(line: str, where: str) -> Question:
    try:
        return Question.model_validate(parse_json(line))
    except ValidationError as error:
        problems = "; ".join(f"field {'.'.join(map(str, e['loc'])) or 'row'}: {e['msg']}" for e in error.errors()[:3])
        raise InputError(f"{where}: {problems}. Correct or remove the row.") from None
    except ValueError as error:
        raise InputError(f"{where}: not a JSON object ({error}). Write one question a line.") from None


def _check(question: Question, where: str, root: Path, row_of: dict[str, int]) -> None:
    if question.id in row_of:
        raise InputError(f"{where}: its id was used already in row {row_of[question.id]}. Ids must be unique.")
    allowed = ANSWER_SETS[question.type]
    if allowed is not None and question.answer is not None and question.true_answer not in allowed:
        raise InputError(
            f"{where}: its answer is not among those of type {question.type!r} "
            f"({', '.join(sorted(allowed))}). Correct the answer or the type."
        )
    if climbs_out(question.image):
        raise InputError(
            f"{where}: its image may lie outside the image folder {root}. Use paths inside it, without '..'."
        )
    if not is_image_file(root, question.image):
        raise InputError(f"{where}: its image is not in {root}. Add the file or correct --images.")


def _check_splits(questions: Iterable[Question], path: Path, row_of: Mapping[str, int]) -> None:
    seen: dict[tuple[str, str], str] = {}
    for question in questions:
        split = split_of(question)
        for what, which in (("patient", question.group), ("image", question.image)):
            if seen.setdefault((what, which), split) != split:
                raise InputError(
                    f"{path}, row {row_of[question.id]}: its {what} is in both splits, so results would leak. "
                    f"Give all questions of one {what} the same 'split'."
                )


def split_of(question: Question, test_share: float = 0.3) -> str:
    """The split of a question: its own field, else by a hash of its patient, so that no patient is in two."""
    if question.split is not None:
        return question.split
    digest = hashlib.blake2b(question.group.encode(), digest_size=8).digest()
    return "test" if int.from_bytes(digest, "big") / 2**64 < test_share else "train"


def prompt_table(questions: Iterable[Question]) -> pd.DataFrame:
    """One row a wording, the original first: the table that every measurement is aligned to.

    Columns: question (int, position in `questions`), variant (int, 0 = original), id, image, patient, type,
    answer (normalised, None where unknown), closed (bool), text, register and phenomenon (None where untagged).
    Wordings that invert the meaning are left out.
    """
    rows = []
    for index, q in enumerate(questions):
        shared = {"question": index, "id": q.id, "image": q.image, "patient": q.group, "type": q.type}
        shared |= {"answer": q.true_answer, "closed": q.closed}
        rows.append(shared | {"variant": 0, "text": q.question, "register": q.register_, "phenomenon": None})
        for k, p in enumerate(q.same_meaning, start=1):
            rows.append(shared | {"variant": k, "text": p.text, "register": p.register_, "phenomenon": p.phenomenon})
    return pd.DataFrame(rows)


def pair_table(prompts: pd.DataFrame) -> pd.DataFrame:
    """One row a (question, paraphrase) pair of a prompt table.

    Columns: original and paraphrase (int, row positions in `prompts`), question, patient, type, phenomenon (str,
    "untagged" where absent), registers (e.g. "formal-casual", None where untagged).
    """
    position = pd.Series(range(len(prompts)), index=prompts.index)
    original = position[(prompts["variant"] == 0).to_numpy()]
    first = pd.Series(original.to_numpy(), index=prompts.loc[original.index, "question"].to_numpy())
    is_paraphrase = (prompts["variant"] > 0).to_numpy()
    rows = prompts[is_paraphrase]
    before = first.loc[rows["question"]].to_numpy()
    registers = prompts["register"].to_numpy()
    after = position[is_paraphrase].to_numpy()
    return pd.DataFrame(
        {
            "original": before,
            "paraphrase": after,
            "question": rows["question"].to_numpy(),
            "patient": rows["patient"].to_numpy(),
            "type": rows["type"].to_numpy(),
            "phenomenon": rows["phenomenon"].fillna("untagged").to_numpy(),
            "registers": [
                f"{registers[a]}-{registers[b]}" if registers[a] and registers[b] else None
                for a, b in zip(before, after, strict=True)
            ],
        }
    )


def fingerprint(questions: Iterable[Question]) -> str:
    """A hash of the questions' content, names of images and text included, that reveals none of it."""
    digest = hashlib.blake2b(digest_size=16)
    for question in questions:
        digest.update(
            question.model_copy(update={"image": Path(question.image).name}).model_dump_json(exclude_none=True).encode()
        )
    return digest.hexdigest()

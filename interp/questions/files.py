"""Questions on disk: reads, checks, splits and writes the JSON Lines format."""

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import cast, get_args

from pydantic import ValidationError

from interp.images.paths import climbs_out, is_image_file
from interp.paths import WORLD
from interp.questions.answers import ANSWER_SETS
from interp.questions.contradictions import one_sided, without_contradictions
from interp.questions.schema import Question
from interp.questions.splits import NamedSplit, Split
from interp.runtime.arguments import expect_each
from interp.runtime.distributed import is_main
from interp.runtime.errors import InputError
from interp.runtime.progress import notify
from interp.storage.atomic import write_text
from interp.storage.folders import check_folder
from interp.storage.json_files import parse_json

log = logging.getLogger(__name__)

EXPECTED = {"string_type": 'expected text, as "q1"', "model_type": 'expected an object, as {"text": "Any fluid?"}'}
"""Kind of a pydantic error -> what to say of it in place of pydantic's words."""


def load_questions(
    path: str | Path = WORLD / "questions.jsonl", images: str | Path | None = None, split: Split = "all"
) -> list[Question]:
    """Read a JSON Lines file of questions, by default the embedded world's, with absolute image paths.

        >>> questions = interp.load_questions(split="train")[:240]
        >>> questions[0].question
        'Is there fluid in the chest at all?'

    Questions whose words have two true answers about one image are left out, and paraphrases that repeat another
    wording of their question but for spaces; stderr says how many. It also says whether all yes/no questions have the
    same true answer. Where a row names no patient, `patient` becomes its image
    path as written in the file, so that splits and intervals do not depend on where the images are stored.
    Raises InputError, which names the row, for anything that violates the format, and if the split is empty. To protect
    privacy, messages quote nothing from a row except its type.
    """
    path = Path(path)
    root = Path(images) if images is not None else path.parent
    if not path.is_file():
        wrong = "is a folder" if path.is_dir() else "no such file"
        raise InputError(f"{path}: {wrong}. Give a JSON Lines file with one question per line.")
    check_folder(root, "Give --images the folder that the 'image' fields are relative to.")
    root = root.absolute()
    questions: list[Question] = []
    row_of: dict[str, int] = {}
    with path.open(encoding="utf-8-sig") as lines:
        try:
            for row, line in enumerate(lines, start=1):
                if line.strip():
                    question = _parse(line, f"{path}, row {row}")
                    _check_question(question, f"{path}, row {row}", root, row_of)
                    row_of[question.id] = row
                    absolute = {"image": str(root / question.image), "patient": question.group}
                    questions.append(question.model_copy(update=absolute))
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}: not UTF-8 text ({error.reason} at byte {error.start}). Save it as UTF-8."
            ) from None
    if not questions:
        raise InputError(f"{path}: holds no questions. Write one per line.")
    questions = _without_repeats(_consistent(questions, path, row_of), path, row_of)
    _check_splits(questions, path, row_of)
    chosen = [q for q in questions if split == "all" or split_of(q) == split]
    if not chosen:
        raise InputError(
            f"{path}: {len(questions)} questions, none in split {split!r}. Check the 'split' fields or use --split all."
        )
    if (answer := one_sided(chosen)) and is_main():
        notify(
            f"warning: {path}: every yes/no question of split {split!r} has the true answer {answer!r}, so a model "
            "that ignores the image can be right each time. Check the 'answer' fields."
        )
    patients = len({q.group for q in chosen})
    log.info("%s: %d questions of %d patients (%s split)", path.name, len(chosen), patients, split)
    return chosen


def given_questions(questions: Sequence[Question] | str | Path, split: str = "all") -> Sequence[Question]:
    """The parameter `questions` of a function: a list of questions as it is, or those of a file and split.

    Raises InputError for anything else, and as `load_questions` does.
    """
    if isinstance(questions, str | Path):
        check_split(split, [])
        return load_questions(questions, split=cast(Split, split))
    expect_each("questions", questions, Question)
    return questions


def write_questions(questions: Iterable[Question], path: Path, images: Path) -> None:
    """Write questions atomically as JSON Lines, with image paths relative to the folder `images`."""
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
        problems = "; ".join(
            f"field {'.'.join(map(str, e['loc'])) or 'row'}: "
            + EXPECTED.get(e["type"], e["msg"].removeprefix("Value error, "))
            for e in error.errors()[:3]
        )
        raise InputError(f"{where}: {problems}. Correct or remove the row.") from None
    except ValueError as error:
        raise InputError(f"{where}: not a JSON object ({error}). Write one question per line.") from None


def _check_question(question: Question, where: str, root: Path, row_of: dict[str, int]) -> None:
    if question.id in row_of:
        raise InputError(f"{where}: its id is already used in row {row_of[question.id]}. Ids must be unique.")
    allowed = ANSWER_SETS[question.type]
    if allowed is not None and question.answer is not None and question.true_answer not in allowed:
        raise InputError(
            f"{where}: its answer is not among those of type {question.type!r} "
            f"({', '.join(sorted(allowed))}). Correct the answer or the type."
        )
    if climbs_out(question.image):
        raise InputError(
            f"{where}: its image path may lead out of the image folder {root}. Use relative paths without '..'."
        )
    if not is_image_file(root, question.image):
        raise InputError(f"{where}: its image is not in {root}. Add the file or correct --images.")


def _consistent(questions: Sequence[Question], path: Path, row_of: Mapping[str, int]) -> list[Question]:
    """The questions without contradictions; says on stderr what is left out."""
    found = without_contradictions(questions)
    if found.contradicted:
        first = f"the first in row {row_of[questions[found.contradicted[0]].id]}"
        said = f"{len(found.contradicted)} questions have two true answers about one image, {first}"
        if not found.questions:
            raise InputError(f"{path}: {said}, and no other question is left. Correct the 'answer' fields.")
        if is_main():
            notify(f"warning: {path}: {said}. They are left out.")
    return found.questions


def _without_repeats(questions: Sequence[Question], path: Path, row_of: Mapping[str, int]) -> list[Question]:
    """The questions with every wording once, whatever its spaces; says on stderr how many paraphrases are left out."""
    kept, repeats, first = [], 0, 0
    for question in questions:
        seen = {" ".join(question.question.split())}
        wordings = []
        for paraphrase in question.paraphrases:
            words = " ".join(paraphrase.text.split())
            if words not in seen:
                wordings.append(paraphrase)
            seen.add(words)
        if len(wordings) < len(question.paraphrases):
            repeats += len(question.paraphrases) - len(wordings)
            first = first or row_of[question.id]
            question = question.model_copy(update={"paraphrases": wordings})
        kept.append(question)
    if repeats and is_main():
        notify(
            f"warning: {path}: {repeats} paraphrases repeat another wording of their question, the first in row "
            f"{first}. They are left out."
        )
    return kept


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


def split_of(question: Question, test_share: float = 0.3) -> NamedSplit:
    """The split of a question: its `split` field, or else a hash of its patient, so that no patient is in both."""
    if question.split is not None:
        return question.split
    digest = hashlib.blake2b(question.group.encode(), digest_size=8).digest()
    return "test" if int.from_bytes(digest, "big") / 2**64 < test_share else "train"


def common_split(questions: Sequence[Question]) -> Split:
    """The split that all of these questions are of (`split_of`), or else "all"."""
    splits = {split_of(question) for question in questions}
    return splits.pop() if len(splits) == 1 else "all"


def check_split(split: str, questions: Sequence[Question]) -> None:
    """Raise InputError unless `split` is "all" or the split that all of these questions are of."""
    if split not in get_args(Split):
        raise InputError(f"split is {split!r}, expected one of {', '.join(get_args(Split))}.")
    other = 0 if split == "all" else sum(split_of(question) != split for question in questions)
    if other:
        raise InputError(
            f"split is {split!r}, but {other} of {len(questions)} questions are of another split. Load them with "
            f"load_questions(..., split={split!r}), or leave `split` out."
        )

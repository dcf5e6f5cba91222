"""`scrub`: finds the files of a folder that may hold question text, paths, patients or images, before it is shared.

Every file is read according to its kind (`interp.sharing.file_contents`). A finding names the file and the kind of
content, but never quotes it. Without the questions, only content that looks private is found; with them, so is every
occurrence of their texts, ids and paths.
"""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from interp.importing.table_files import read_rows
from interp.questions.schema import Question
from interp.runtime.errors import InputError
from interp.runtime.progress import track
from interp.schemas.scrub_report import SHORTEST_SEARCHED, Finding, ScrubReport
from interp.sharing.file_contents import Contents, contents_of
from interp.storage.folders import check_folder

PRIVATE_FIELDS = frozenset(
    {
        *(
            "question",
            "question_text",
            "original_question",
            "question_rephrase",
            "question_variant",
            "baseline_question",
        ),
        *("text", "paraphrase", "paraphrases", "wording", "prompt_text"),
        *("image", "images", "image_path", "image_name", "image_id", "filename", "dicom_id"),
        *("patient", "patient_id", "patientid", "subject_id", "study_id", "qid"),
    }
)
"""Columns and keys whose text is private, in lower case."""
EXAMPLES_FIGURE = "examples.png"
"""File name of the figure with radiographs that `finetune grounding --include-examples` draws."""
_PATH = re.compile(
    r"(?<![\w.:/~-])(?:~|/(?:home|root|Users|mnt|media|data|datasets|scratch|tmp|srv|opt|var|gpfs|lustre|nfs|work|workspace))"
    r"/[\w.@~+-]+|(?<!\w)[A-Za-z]:\\\w|\\\\\w+\\\w|\bp1\d/p1\d{7}\b"
)
_IMAGE_NAME = re.compile(r"[\w.@+-]+\.(?:dcm|dicom|jpe?g|png|tiff?)\b", re.IGNORECASE)
_QUESTION = re.compile(r"\w+\W+\w+\W+\w.*\?\s*$", re.DOTALL)
_WORD = re.compile(r"[^\W_]+")


class PrivateText(NamedTuple):
    """A text, id or path of the questions."""

    words: str
    """The text in lower case with single spaces, from its first letter or digit on."""
    kind: str
    """What the text is, such as "a patient's id"."""
    row: int
    """First row of the questions file that contains the text."""


class PrivateTexts(NamedTuple):
    """All texts of the questions to search for."""

    by_first_word: dict[str, list[PrivateText]]
    """First word -> the texts that begin with it."""
    too_short: int
    """Number of texts shorter than SHORTEST_SEARCHED, which are not searched for."""


def scrub(folder: Path, questions: Sequence[Path] = ()) -> ScrubReport:
    """Find reasons not to share the files of a folder. Nothing is changed.

    `questions` are files in our format, whose texts, ids, patients and images are searched for in every file.
    Raises InputError if there is no such folder, or if a file of questions cannot be read.
    """
    check_folder(folder, "Give the one that is to be shared.")
    private = private_texts(questions)
    files = sorted(path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())
    names = {path.name for path in files}
    findings = []
    for path in track(files, "files"):
        name = path.relative_to(folder).as_posix()
        reasons = [f"a name with {what}" for what in _matches([name], private)]
        if path.is_symlink() or not path.is_file():
            reasons.append("a link, or not a regular file")
        else:
            held = contents_of(path)
            reasons += [*_kinds(path.name, held), *_looks(held, names), *_matches(held.texts, private)]
        findings += [Finding(name, what) for what in reasons]
    return ScrubReport(findings, len(files), private.too_short)


def private_texts(questions: Sequence[Path]) -> PrivateTexts:
    """Every text, id, patient and image path in files of questions. Raises InputError for a row that is not one."""
    found: dict[str, PrivateText] = {}
    short = set()
    for path in questions:
        for number, row in enumerate(read_rows(path), start=1):
            try:
                question = Question.model_validate(row.cells)
            except ValidationError:
                raise InputError(
                    f"{path}, row {number}: not a question. Import it with `interp import-questions`."
                ) from None
            for kind, written in _texts_of(question):
                words = _folded(written).lstrip("/.\\_- ")
                start = _WORD.search(words)
                if start is None or len(words) < SHORTEST_SEARCHED:
                    short.add(words)
                else:
                    found.setdefault(words[start.start() :], PrivateText(words[start.start() :], kind, number))
    by_first_word: dict[str, list[PrivateText]] = {}
    for text in found.values():
        by_first_word.setdefault(_WORD.match(text.words)[0], []).append(text)  # type: ignore[index]
    return PrivateTexts(by_first_word, len(short))


def _texts_of(question: Question) -> Iterable[tuple[str, str]]:
    image = question.image.replace("\\", "/")
    yield "question text", question.question
    yield from (("question text", paraphrase.text) for paraphrase in question.paraphrases)
    yield "the id of a question", question.id
    if question.patient is not None:
        yield "a patient's id", question.patient
    for part in (image, os.path.basename(image), os.path.splitext(os.path.basename(image))[0]):
        yield "an image's path or name", part


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _matches(texts: Iterable[str], private: PrivateTexts) -> list[str]:
    """The kinds of private text that occur in some texts, each with the rows of the questions that it comes from."""
    if not private.by_first_word:
        return []
    rows: dict[str, set[int]] = {}
    for text in {_folded(text) for text in texts}:
        for word in _WORD.finditer(text):
            for sought in private.by_first_word.get(word[0], ()):
                end = word.start() + len(sought.words)
                if text.startswith(sought.words, word.start()) and not text[end : end + 1].isalnum():
                    rows.setdefault(sought.kind, set()).add(sought.row)
    return [f"{kind} ({_rows_text(sorted(found))})" for kind, found in sorted(rows.items())]


def _rows_text(rows: Sequence[int], most: int = 5) -> str:
    listed = ", ".join(map(str, rows[:most]))
    return f"row{'s' * (len(rows) > 1)} {listed}{f' and {len(rows) - most} more' if len(rows) > most else ''}"


def _kinds(name: str, held: Contents) -> list[str]:
    """Reasons not to share a file, judged by its kind and its fields."""
    reasons = []
    if held.images:
        reasons.append("several images" if held.images > 1 else "an image")
    elif name == EXAMPLES_FIGURE:
        reasons.append("radiographs, drawn with --include-examples")
    if held.tokens:
        reasons.append("image tokens, which reveal what an image shows")
    if held.token_ids:
        reasons.append("token ids, which are the text of the wordings for anyone who has the tokenizer")
    if held.opaque:
        reasons.append("content that cannot be read: an unknown kind of file, or a damaged one")
    if private := sorted(held.fields & PRIVATE_FIELDS):
        reasons.append(f"text under {', '.join(map(repr, private))}")
    if "text_hashes" in held.fields:
        reasons.append("hashes of training texts, which can be tested against guesses; `finetune push` leaves them out")
    return reasons


def _looks(held: Contents, names: set[str]) -> list[str]:
    """Reasons not to share a file, judged by what its texts look like; `names` are the files in the folder."""
    reasons = []
    # Prose may name a figure or end in a question, so only cells are checked for those.
    cells = [text for text in held.texts if held.fields]
    if any(_PATH.search(text) for text in held.texts):
        reasons.append("what looks like a path on a machine or to a patient")
    if any(set(_IMAGE_NAME.findall(text)) - names for text in cells):
        reasons.append("what looks like the name of an image")
    # A register grid has question frames, with {x} in place of a finding.
    if any(_QUESTION.search(text) and "{x}" not in text for text in cells):
        reasons.append("what looks like a question")
    return reasons

"""`scrub`: which files of a folder may hold question text, paths, patients or images, before it is shared.

Every file is read as what it is (`interp.sharing.file_contents`). What is reported names the file and the kind of
what was found,
never quotes it. Without the questions only what looks private is found; with them, every text, id and path of theirs.
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
from interp.sharing.file_contents import Contents, contents_of

PRIVATE = frozenset(
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
"""Columns and keys under which text is private."""
SHORTEST = 4
"""Characters of a text, id or path that can be told from chance."""
EXAMPLES = "examples.png"
"""What `finetune grounding --include-examples` draws: radiographs, in a figure."""
_PATH = re.compile(
    r"(?<![\w.:/~-])(?:~|/(?:home|root|Users|mnt|media|data|datasets|scratch|tmp|srv|opt|var|gpfs|lustre|nfs|work|workspace))"
    r"/[\w.@~+-]+|(?<!\w)[A-Za-z]:\\\w|\\\\\w+\\\w|\bp1\d/p1\d{7}\b"
)
_IMAGE_NAME = re.compile(r"[\w.@+-]+\.(?:dcm|dicom|jpe?g|png|tiff?)\b", re.IGNORECASE)
_QUESTION = re.compile(r"\w+\W+\w+\W+\w.*\?\s*$", re.DOTALL)
_WORD = re.compile(r"[^\W_]+")


class Finding(NamedTuple):
    """One reason not to share one file."""

    file: str
    """Path inside the folder."""
    what: str
    """What it holds or may hold, without quoting it."""


class Term(NamedTuple):
    """A text, id or path of the questions."""

    words: str
    """In lower case, blanks made one, from its first letter or digit on."""
    kind: str
    """What it is."""
    row: int
    """Of the file of questions, the first that has it."""


class Terms(NamedTuple):
    """What is looked for."""

    by_word: dict[str, list[Term]]
    """First word of a term -> the terms that begin with it."""
    too_short: int
    """Ids and names that could not be told from chance, and are not looked for."""


def scrub(folder: Path, questions: Sequence[Path] = ()) -> tuple[list[Finding], int, int]:
    """Reasons not to share the files of a folder, the number of its files, and of ids too short to be looked for.

    `questions` are tables in our format, whose texts, ids, patients and images are looked for in every file. Nothing is
    changed. Raises InputError if there is no such folder, or if a file of questions can not be read.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder. Name the one that is to be shared.")
    terms = terms_of(questions)
    files = sorted(path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())
    names = {path.name for path in files}
    found = []
    for path in track(files, "files"):
        name = path.relative_to(folder).as_posix()
        reasons = [f"a name with {what}" for what in _matches([name], terms)]
        if path.is_symlink() or not path.is_file():
            reasons.append("a link, or no plain file")
        else:
            held = contents_of(path)
            reasons += [*_kinds(path.name, held), *_looks(held, names), *_matches(held.texts, terms)]
        found += [Finding(name, what) for what in reasons]
    return found, len(files), terms.too_short


def terms_of(questions: Sequence[Path]) -> Terms:
    """Every text, id, patient and image of some files of questions. Raises InputError naming a row that is none."""
    kinds: dict[str, Term] = {}
    short = set()
    for path in questions:
        for number, row in enumerate(read_rows(path), start=1):
            try:
                question = Question.model_validate(row.cells)
            except ValidationError:
                raise InputError(
                    f"{path}, row {number}: not a question. Import it with `interp import-questions`."
                ) from None
            for kind, text in _private(question):
                words = _normal(text).lstrip("/.\\_- ")
                start = _WORD.search(words)
                if start is None or len(words) < SHORTEST:
                    short.add(words)
                else:
                    kinds.setdefault(words[start.start() :], Term(words[start.start() :], kind, number))
    by_word: dict[str, list[Term]] = {}
    for term in kinds.values():
        by_word.setdefault(_WORD.match(term.words)[0], []).append(term)  # type: ignore[index]
    return Terms(by_word, len(short))


def _private(question: Question) -> Iterable[tuple[str, str]]:
    image = question.image.replace("\\", "/")
    yield "question text", question.question
    yield from (("question text", paraphrase.text) for paraphrase in question.paraphrases)
    yield "the id of a question", question.id
    if question.patient is not None:
        yield "a patient's id", question.patient
    for part in (image, os.path.basename(image), os.path.splitext(os.path.basename(image))[0]):
        yield "an image's path or name", part


def _normal(text: str) -> str:
    return " ".join(text.casefold().split())


def _matches(texts: Iterable[str], terms: Terms) -> list[str]:
    """What of the questions is in some texts, a kind each, with the rows it is of."""
    if not terms.by_word:
        return []
    rows: dict[str, set[int]] = {}
    for text in {_normal(text) for text in texts}:
        for word in _WORD.finditer(text):
            for term in terms.by_word.get(word[0], ()):
                end = word.start() + len(term.words)
                if text.startswith(term.words, word.start()) and not text[end : end + 1].isalnum():
                    rows.setdefault(term.kind, set()).add(term.row)
    return [f"{kind} ({_rows_text(sorted(found))})" for kind, found in sorted(rows.items())]


def _rows_text(rows: Sequence[int], most: int = 5) -> str:
    listed = ", ".join(map(str, rows[:most]))
    return f"row{'s' * (len(rows) > 1)} {listed}{f' and {len(rows) - most} more' if len(rows) > most else ''}"


def _kinds(name: str, held: Contents) -> list[str]:
    """Why a file should not be shared, by its kind and its fields."""
    reasons = []
    if held.images:
        reasons.append("an image, or several" if held.images > 1 else "an image")
    elif name == EXAMPLES:
        reasons.append("radiographs, drawn with --include-examples")
    if held.tokens:
        reasons.append("image tokens, which tell what an image shows")
    if held.opaque:
        reasons.append("of a kind that can not be looked into, or damaged")
    if private := sorted(held.fields & PRIVATE):
        reasons.append(f"text under {', '.join(map(repr, private))}")
    if "text_hashes" in held.fields:
        reasons.append("hashes of training texts, which can be tested against guesses; `finetune push` leaves them out")
    return reasons


def _looks(held: Contents, names: set[str]) -> list[str]:
    """Why a file should not be shared, by what its texts look like; `names` are those of the folder's own files."""
    reasons = []
    # Prose that names a figure is no harm, and a page may end in a question.
    cells = [text for text in held.texts if held.fields]
    if any(_PATH.search(text) for text in held.texts):
        reasons.append("what looks like a path of a machine or a patient")
    if any(set(_IMAGE_NAME.findall(text)) - names for text in cells):
        reasons.append("what looks like the name of an image")
    # A register grid has frames, with {x} in place of any finding.
    if any(_QUESTION.search(text) and "{x}" not in text for text in cells):
        reasons.append("what looks like a question")
    return reasons

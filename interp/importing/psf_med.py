"""PSF-Med (saillab/psf-med): questions on MIMIC-CXR, PadChest or VinDr-CXR with their paraphrases.

Two layouts are known: a row per question with its paraphrases, and a row per paraphrase. Column names differ
between versions. The images are not part of the data set.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from interp.images.paths import climbs_out
from interp.importing.cells import UNREADABLE, answer_in, flag_in, image_in, text_of, wording_text, wordings_in
from interp.importing.question_types import our_type
from interp.importing.records import DroppedRow, SourceQuestion, image_problem, paraphrase_of
from interp.importing.table_files import (
    ENDINGS,
    Source,
    TableRow,
    columns_of,
    match_columns,
    name_of,
    read_rows,
)
from interp.importing.wordings import TWO_ANSWERS
from interp.questions.answers import normalize_answer
from interp.questions.yes_no_form import asks_yes_or_no
from interp.runtime.errors import InputError

SUBSETS = ("mimic", "padchest", "vindr")

NEEDED = {
    "question": ("original_question", "question", "question_text", "baseline_question"),
    "paraphrases": ("paraphrases", "paraphrase", "paraphrase_text", "paraphrased_question"),
    "image": (
        *("filename", "image_path", "image", "image_file", "image_name", "images", "file_name", "img_name"),
        *("image_id", "dicom_id"),
    ),
}
OPTIONAL = {
    "id": ("question_id", "qid", "id"),
    "answer": ("answer", "ground_truth", "gt_answer", "label"),
    "type": ("question_type", "type", "category"),
    "patient": ("subject_id", "patient_id", "patientid", "patient"),
    "split": ("split",),
    "yes_no": ("is_yesno_claude", "is_yesno", "answer_type"),
    "phenomenon": ("phenomenon", "phenomena", "transformation", "strategy"),
    "register": ("register",),
}


def read(source: Source, subset: str | None = None) -> Iterator[SourceQuestion | DroppedRow]:
    """Read a table file or a table in memory, or a subset in a folder (a copy of the hub repository)."""
    for table in _tables(source, subset):
        rows = read_rows(table)
        found = columns_of(rows, wordings=NEEDED["paraphrases"])
        columns = match_columns(found, NEEDED, OPTIONAL, name_of(table))
        yield from _questions(rows, columns)


def _tables(source: Source, subset: str | None) -> Sequence[Source]:
    if not isinstance(source, Path) or source.is_file():
        return [source]
    if subset not in SUBSETS:
        raise InputError(f"{source}: which subset? Give --subset as one of {', '.join(SUBSETS)}.")
    patterns = _configured(source / "README.md", subset)
    if patterns:
        # Patterns may overlap, but no question may occur twice.
        try:
            found = list(dict.fromkeys(path for pattern in patterns for path in sorted(source.glob(pattern))))
        except (OSError, ValueError, NotImplementedError):
            raise InputError(
                f"{source / 'README.md'}: data_files are not file patterns. Correct or remove the file."
            ) from None
    else:
        tables = [path for path in sorted(source.rglob("*")) if path.suffix.lower() in ENDINGS]
        found = [
            path for path in tables if subset in str(path.relative_to(source)).lower() and "image" not in path.stem
        ]
    if not found:
        raise InputError(
            f"{source}: no table of the subset {subset!r}. Give the file itself, or download the whole repository: "
            "`hf download saillab/psf-med --repo-type dataset`."
        )
    return found


def _configured(card: Path, subset: str) -> list[str]:
    """File patterns of a subset according to the data set card; empty if it has none.

    Raises InputError for a card that cannot be read, and for patterns that lead out of its folder.
    """
    if not card.is_file():
        return []
    from huggingface_hub import DatasetCard
    from yaml import YAMLError

    try:
        configs = DatasetCard.load(card).data.to_dict().get("configs") or []
    except (YAMLError, ValueError, TypeError, AttributeError, RecursionError):
        raise InputError(
            f"{card}: its front matter cannot be read. Remove the file; the tables are found without it."
        ) from None
    patterns: list[Any] = []
    for config in configs if isinstance(configs, list) else []:
        if isinstance(config, dict) and config.get("config_name") == subset:
            files = config.get("data_files") or []
            for entry in files if isinstance(files, list) else [files]:
                path = entry.get("path") if isinstance(entry, dict) else entry
                patterns += path if isinstance(path, list) else [path]
    if not all(isinstance(pattern, str) and pattern.strip("./") and not climbs_out(pattern) for pattern in patterns):
        raise InputError(
            f"{card}: data_files of {subset!r} are not paths inside its folder. Correct or remove the file."
        )
    return patterns


def _questions(rows: Sequence[TableRow], columns: Mapping[str, str]) -> Iterator[SourceQuestion | DroppedRow]:
    """Read rows that hold one or several paraphrases each.

    Rows with the same id, image and question belong together. A list of paraphrases is complete, so that such a row
    without an id is a question of its own.
    """
    groups: dict[tuple[Any, ...], list[tuple[TableRow, dict[str, Any]]]] = {}
    nested = any(isinstance(row.cells.get(columns["paraphrases"]), list) for row in rows)
    for number, row in enumerate(rows):
        cells = {ours: row.cells.get(name) for ours, name in columns.items()}
        cells["image"] = image_in(cells["image"])
        key = (text_of(cells.get("id")), cells["image"], text_of(cells["question"]))
        groups.setdefault((number,) if nested else key, []).append((row, cells))
    for number, members in enumerate(groups.values()):
        row, first = members[0]
        entries: list[Mapping[str, Any]] = []
        unreadable = 0
        for _, cells in members:
            texts = wordings_in(cells["paraphrases"])
            if texts is UNREADABLE:
                unreadable += 1
                continue
            tags = {} if nested else {"phenomenon": cells.get("phenomenon"), "register": cells.get("register")}
            entries += [
                text if isinstance(text, dict) else {"text": text, **tags} for text in texts if text is not None
            ]
        answers = [answer for _, cells in members if (answer := answer_in(cells.get("answer"))) is not None]
        yield _source_question(row.where, number, first, entries, answers, unreadable)


def _source_question(
    where: str,
    number: int,
    cells: Mapping[str, Any],
    entries: Sequence[Mapping[str, Any]],
    answers: Sequence[str],
    unreadable: int,
) -> SourceQuestion | DroppedRow:
    """The question of rows that hold these paraphrases, these answers and a number of lists that cannot be read."""
    question, image = text_of(cells["question"]), cells["image"]
    problem = "no question" if question is None else image_problem(image)
    if problem or question is None:
        return DroppedRow(where, problem or "no question")
    given = flag_in(cells.get("yes_no"), cells.get("type"))
    closed = asks_yes_or_no(question) if given is None else given
    if not answers and not closed:
        return DroppedRow(where, "neither an answer nor a yes/no question")
    type_ = text_of(cells.get("type"))
    if len({normalize_answer(answer, our_type(type_) or "other", question, given) for answer in answers}) > 1:
        return DroppedRow(where, TWO_ANSWERS)
    paraphrases, dropped = [], ["list of paraphrases that is cut off or damaged"] * unreadable
    for entry in entries:
        text = wording_text(entry)
        yes_no = next((flag_in(entry[name]) for name in OPTIONAL["yes_no"] if entry.get(name) is not None), None)
        if not text:
            dropped.append("paraphrase without text")
        elif closed and yes_no is False:
            dropped.append("paraphrase that is not a yes/no question, unlike its original")
        else:
            phenomenon = next((text_of(entry[n]) for n in OPTIONAL["phenomenon"] if entry.get(n) is not None), None)
            register = text_of(entry.get("register"))
            tone = register if register in ("formal", "casual") else None
            paraphrase = paraphrase_of(text, phenomenon, tone)
            if paraphrase is None:
                dropped.append("paraphrase without text")
            else:
                paraphrases.append(paraphrase)
    return SourceQuestion(
        where=where,
        id=text_of(cells.get("id")) or str(number),
        image=image,
        patient=text_of(cells.get("patient")),
        type=type_,
        question=question,
        answer=answers[0] if answers else None,
        paraphrases=paraphrases,
        split=text_of(cells.get("split")),
        yes_no=given,
        dropped=tuple(dropped),
    )

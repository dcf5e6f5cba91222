"""PSF-Med (saillab/psf-med): questions on MIMIC-CXR, PadChest or VinDr-CXR with their paraphrases.

Two layouts are known: a row per question with a list of paraphrases, and a row per paraphrase. Column names differ
between versions. The images are not part of the data set.
"""

from ast import literal_eval
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from interp.images.paths import climbs_out
from interp.importing.records import DroppedRow, SourceQuestion, paraphrase_of
from interp.importing.table_files import ENDINGS, TableRow, columns_of, match_columns, read_rows, text_of
from interp.questions.answers import asks_yes_or_no
from interp.runtime.errors import InputError
from interp.storage.json_files import parse_json

SUBSETS = ("mimic", "padchest", "vindr")

NEEDED = {
    "question": ("original_question", "question", "question_text", "baseline_question"),
    "paraphrases": ("paraphrases", "paraphrase", "paraphrase_text", "paraphrased_question"),
    "image": ("filename", "image_path", "image", "image_file", "image_name", "image_id", "dicom_id"),
}
OPTIONAL = {
    "id": ("question_id", "qid", "id"),
    "answer": ("answer", "ground_truth", "gt_answer", "label"),
    "type": ("question_type", "type", "category"),
    "patient": ("subject_id", "patient_id", "patientid", "patient"),
    "split": ("split",),
    "yes_no": ("is_yesno_claude", "is_yesno"),
    "phenomenon": ("phenomenon", "phenomena", "transformation", "strategy"),
    "register": ("register",),
}
_TEXT = ("text", "paraphrase", "question", "paraphrased_question")


def read(source: Path, subset: str | None = None) -> Iterator[SourceQuestion | DroppedRow]:
    """Read a table file, or a subset in a folder (a copy of the hub repository)."""
    for path in _files(source, subset):
        rows = read_rows(path)
        columns = match_columns(columns_of(rows), NEEDED, OPTIONAL, str(path))
        nested = any(isinstance(row.cells.get(columns["paraphrases"]), list) for row in rows)
        yield from _nested(rows, columns) if nested else _long(rows, columns)


def _files(source: Path, subset: str | None) -> list[Path]:
    if source.is_file():
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


def _nested(rows: Sequence[TableRow], columns: Mapping[str, str]) -> Iterator[SourceQuestion | DroppedRow]:
    for number, row in enumerate(rows):
        cells = {ours: row.cells.get(name) for ours, name in columns.items()}
        listed = cells["paraphrases"] if isinstance(cells["paraphrases"], list) else []
        entries = [entry if isinstance(entry, dict) else {"text": entry} for entry in listed]
        yield _source_question(row.where, number, cells, entries)


def _long(rows: Sequence[TableRow], columns: Mapping[str, str]) -> Iterator[SourceQuestion | DroppedRow]:
    """Read rows that hold one paraphrase each; rows with the same id, image and question belong together."""
    groups: dict[tuple[str | None, ...], list[tuple[TableRow, dict[str, Any]]]] = {}
    for row in rows:
        cells = {ours: row.cells.get(name) for ours, name in columns.items()}
        if isinstance(cells["paraphrases"], str) and cells["paraphrases"].startswith("["):
            cells["paraphrases"] = _listed(cells["paraphrases"])
        key = (text_of(cells.get("id")), text_of(cells["image"]), text_of(cells["question"]))
        groups.setdefault(key, []).append((row, cells))
    for number, members in enumerate(groups.values()):
        row, first = members[0]
        entries: list[dict[str, Any]] = []
        for _, cells in members:
            texts = cells["paraphrases"] if isinstance(cells["paraphrases"], list) else [cells["paraphrases"]]
            tags = {"phenomenon": cells.get("phenomenon"), "register": cells.get("register")}
            entries += [
                text if isinstance(text, dict) else {"text": text, **tags} for text in texts if text is not None
            ]
        yield _source_question(row.where, number, first, entries)


def _listed(text: str) -> Any:
    """A list that was written into a CSV cell, as JSON or (by pandas) as Python."""
    try:
        return parse_json(text)
    except ValueError:
        pass
    try:
        written = literal_eval(text) if text.lstrip().startswith("[") else text
    # It is not a list.
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    return written if isinstance(written, list) and all(isinstance(part, str) for part in written) else text


def _source_question(
    where: str, number: int, cells: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]
) -> SourceQuestion | DroppedRow:
    question, image = text_of(cells["question"]), text_of(cells["image"])
    if question is None or image is None:
        return DroppedRow(where, "no question" if question is None else "no image")
    answer = text_of(cells.get("answer"))
    closed = asks_yes_or_no(question) if cells.get("yes_no") is None else _is_set(cells["yes_no"])
    if answer is None and not closed:
        return DroppedRow(where, "neither an answer nor a yes/no question")
    paraphrases, dropped = [], []
    for entry in entries:
        text = next((text_of(entry[name]) for name in _TEXT if entry.get(name) is not None), None)
        yes_no = next((entry[name] for name in OPTIONAL["yes_no"] if entry.get(name) is not None), None)
        if not text:
            dropped.append("paraphrase without text")
        elif closed and yes_no is not None and not _is_set(yes_no):
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
        type=text_of(cells.get("type")),
        question=question,
        answer=answer,
        paraphrases=paraphrases,
        split=text_of(cells.get("split")),
        dropped=tuple(dropped),
    )


def _is_set(cell: Any) -> bool:
    """Whether a flag is set, in any of the ways that files write it."""
    return str(cell).strip().lower() in ("true", "1", "1.0", "yes")

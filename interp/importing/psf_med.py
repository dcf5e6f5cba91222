"""PSF-Med (saillab/psf-med): questions on MIMIC-CXR, PadChest or VinDr-CXR with their paraphrases.

Two layouts are known: one row a question with a list of paraphrases, and one row a paraphrase. Columns go by several
names over the versions; images are not part of the data set.
"""

from ast import literal_eval
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from interp.images.paths import climbs_out
from interp.importing.records import Dropped, Record, paraphrase_of
from interp.importing.table_files import ENDINGS, Row, columns_of, match_columns, read_rows, text_of
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


def read(source: Path, subset: str | None = None) -> Iterator[Record | Dropped]:
    """Questions of one table file, or of a subset of a folder (a copy of the hub's repository)."""
    for path in _files(source, subset):
        rows = read_rows(path)
        columns = match_columns(columns_of(rows), NEEDED, OPTIONAL, str(path))
        nested = any(isinstance(row.cells.get(columns["paraphrases"]), list) for row in rows)
        yield from _nested(rows, columns) if nested else _long(rows, columns)


def _files(source: Path, subset: str | None) -> list[Path]:
    if source.is_file():
        return [source]
    if subset not in SUBSETS:
        raise InputError(f"{source}: which subset? Give --subset {', '.join(SUBSETS)}.")
    patterns = _configured(source / "README.md", subset)
    if patterns:
        # Patterns may overlap, and no question is to be there twice.
        try:
            found = list(dict.fromkeys(path for pattern in patterns for path in sorted(source.glob(pattern))))
        except (OSError, ValueError, NotImplementedError):
            raise InputError(f"{source / 'README.md'}: its data_files are no patterns. Remove the file.") from None
    else:
        tables = [path for path in sorted(source.rglob("*")) if path.suffix.lower() in ENDINGS]
        found = [
            path for path in tables if subset in str(path.relative_to(source)).lower() and "image" not in path.stem
        ]
    if not found:
        raise InputError(
            f"{source}: no table of the subset {subset!r} there. Give the file itself, or download the repository "
            "whole: `hf download saillab/psf-med --repo-type dataset`."
        )
    return found


def _configured(card: Path, subset: str) -> list[str]:
    """File patterns of a subset by the data set's card; none where it has none.

    Raises InputError for a card that can not be read, and for patterns that lead out of its folder.
    """
    if not card.is_file():
        return []
    from huggingface_hub import DatasetCard
    from yaml import YAMLError

    try:
        configs = DatasetCard.load(card).data.to_dict().get("configs") or []
    except (YAMLError, ValueError, TypeError, AttributeError, RecursionError):
        raise InputError(
            f"{card}: its front matter is not readable. Remove the file: tables are found without."
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
            f"{card}: data_files of {subset!r} are no paths inside its folder. Correct or remove the file."
        )
    return patterns


def _nested(rows: Sequence[Row], columns: Mapping[str, str]) -> Iterator[Record | Dropped]:
    for number, row in enumerate(rows):
        cells = {ours: row.cells.get(name) for ours, name in columns.items()}
        listed = cells["paraphrases"] if isinstance(cells["paraphrases"], list) else []
        entries = [entry if isinstance(entry, dict) else {"text": entry} for entry in listed]
        yield _record(row.where, number, cells, entries)


def _long(rows: Sequence[Row], columns: Mapping[str, str]) -> Iterator[Record | Dropped]:
    """One row a paraphrase: those of one question, by its id or by its image and wording, belong together."""
    groups: dict[tuple[str | None, ...], list[tuple[Row, dict[str, Any]]]] = {}
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
        yield _record(row.where, number, first, entries)


def _listed(text: str) -> Any:
    """A list that was written into one CSV cell, as JSON or, as pandas does it, as Python."""
    try:
        return parse_json(text)
    except ValueError:
        pass
    try:
        written = literal_eval(text) if text.lstrip().startswith("[") else text
    # Whatever it is, it is no list.
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    return written if isinstance(written, list) and all(isinstance(part, str) for part in written) else text


def _record(
    where: str, number: int, cells: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]
) -> Record | Dropped:
    question, image = text_of(cells["question"]), text_of(cells["image"])
    if question is None or image is None:
        return Dropped(where, "no question" if question is None else "no image")
    answer = text_of(cells.get("answer"))
    closed = asks_yes_or_no(question) if cells.get("yes_no") is None else _truth(cells["yes_no"])
    if answer is None and not closed:
        return Dropped(where, "neither an answer nor a yes/no question")
    paraphrases, dropped = [], []
    for entry in entries:
        text = next((text_of(entry[name]) for name in _TEXT if entry.get(name) is not None), None)
        yes_no = next((entry[name] for name in OPTIONAL["yes_no"] if entry.get(name) is not None), None)
        if not text:
            dropped.append("paraphrase without text")
        elif closed and yes_no is not None and not _truth(yes_no):
            dropped.append("paraphrase of a yes/no question that is none")
        else:
            phenomenon = next((text_of(entry[n]) for n in OPTIONAL["phenomenon"] if entry.get(n) is not None), None)
            register = text_of(entry.get("register"))
            tone = register if register in ("formal", "casual") else None
            paraphrase = paraphrase_of(text, phenomenon, tone)
            if paraphrase is None:
                dropped.append("paraphrase without text")
            else:
                paraphrases.append(paraphrase)
    return Record(
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


def _truth(cell: Any) -> bool:
    """A flag, however the file writes it."""
    return str(cell).strip().lower() in ("true", "1", "1.0", "yes")

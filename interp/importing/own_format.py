"""GateScope's own format: JSON Lines with one question per line, as `interp.questions.schema` defines it."""

from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from interp.importing.cells import EmbeddedImage, SeveralImages, image_in, text_of
from interp.importing.records import DroppedRow, SourceQuestion
from interp.importing.table_files import Source, read_rows
from interp.questions.schema import Question
from interp.runtime.errors import InputError


def read(source: Source, subset: str | None = None) -> Iterator[SourceQuestion | DroppedRow]:
    """Read a JSON Lines file or a table in memory with our fields.

    A row that violates the format is dropped, and the reason names the field.
    """
    if isinstance(source, Path) and source.suffix.lower() != ".jsonl":
        raise InputError(f"{source}: expected a JSON Lines file whose name ends in .jsonl.")
    for row in read_rows(source):
        cells = {name: value for name, value in row.cells.items() if value is not None}
        for name in cells.keys() & {"id", "patient", "split", "register"}:
            cells[name] = text_of(cells[name])
        image = image_in(cells.get("image"))
        if isinstance(image, SeveralImages):
            yield DroppedRow(row.where, "several images")
            continue
        if image is not None:
            cells["image"] = "embedded" if isinstance(image, EmbeddedImage) else image
        try:
            q = Question.model_validate(cells)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"][:1]) or "row"
            yield DroppedRow(row.where, f"field {field!r}: {first['type'].replace('_', ' ')}")
            continue
        yield SourceQuestion(
            where=row.where,
            id=q.id,
            image=image if isinstance(image, EmbeddedImage) else q.image,
            patient=q.patient,
            type=q.type,
            question=q.question,
            answer=q.answer,
            paraphrases=q.paraphrases,
            split=q.split,
            register=q.register_,
            boxes=tuple(q.boxes),
        )

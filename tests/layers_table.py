"""Write the table of layers.json's fields into interp/README.md: `python tests/layers_table.py`.

The table comes from the schema (`interp.schemas.layers`), so it is never written by hand. A test fails if it is
out of date.
"""

import types
import typing
from pathlib import Path

from pydantic import BaseModel

from interp.schemas.layers import Layers
from interp.schemas.record import Interval

README = Path(__file__).parents[1] / "interp" / "README.md"
BEGIN, END = "<!-- made by tests/layers_table.py -->", "<!-- end of the table -->"
NAMES = {str: "text", int: "integer", float: "number", bool: "true or false", Interval: "interval"}
"""Type of a field -> its name in the table."""


def table() -> str:
    """The table in Markdown, a row a field; fields of a part stand below the field that holds it."""
    rows = ["| `{}` | {} | {} |".format(name, kind, text.replace("|", r"\|")) for name, kind, text in _rows(Layers, "")]
    return "\n".join(["| field | type | meaning |", "| --- | --- | --- |", *rows])


def _rows(schema: type[BaseModel], path: str) -> typing.Iterator[tuple[str, str, str]]:
    for name, field in schema.model_fields.items():
        part = _part(field.annotation)
        listed = "[]" if typing.get_origin(_defined(field.annotation)) is list and part else ""
        yield f"{path}{name}{listed}", _kind(field.annotation), field.description or ""
        if part is not None:
            yield from _rows(part, f"{path}{name}{listed}.")


def _defined(kind: typing.Any) -> typing.Any:
    """The type without `None`."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return next(each for each in typing.get_args(kind) if each is not type(None))
    return kind


def _part(kind: typing.Any) -> type[BaseModel] | None:
    """The schema of the part that a field holds, alone or in a list; None for a plain value."""
    kind = _defined(kind)
    kind = typing.get_args(kind)[0] if typing.get_origin(kind) is list else kind
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) and kind is not Interval else None


def _kind(kind: typing.Any) -> str:
    null = " or null" if kind != _defined(kind) else ""
    kind = _defined(kind)
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return ", ".join(f"`{each}`" for each in inside) + null
    if origin is list:
        return f"list of {'entries' if _part(kind) else NAMES[inside[0]] + 's'}{null}"
    return ("object" if origin is dict or _part(kind) else NAMES[kind]) + null


def updated(page: str) -> str:
    """The page with the table between its two marks made anew."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


if __name__ == "__main__":
    README.write_text(updated(README.read_text(encoding="utf-8")), encoding="utf-8")

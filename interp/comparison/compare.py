"""`compare`: reads two searches or two evaluations, and says what changed."""

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from interp.comparison.evaluations import compare_evaluations
from interp.comparison.searches import compare_searches
from interp.runtime.arguments import expect_one_of
from interp.runtime.errors import InputError
from interp.schemas.comparison import Comparison
from interp.schemas.evaluation import Evaluation
from interp.schemas.items import ITEMS, ItemKind, evaluation_items_path, read_items
from interp.schemas.layers import Layers, read_layers
from interp.schemas.read import cleaned, read_artifact
from interp.search.loaded_run import LoadedRun
from interp.search.result import FindResult
from interp.views.notebook import overview_html
from interp.views.tables.comparison import comparison_overview, conclusions

LAYERS, EVALUATION = "layers.json", "evaluation.json"
Compared = str | Path | FindResult | LoadedRun | Evaluation
"""A result to compare: its folder or file, or the result itself."""


class ComparisonResult(Comparison):
    """What `compare` found: the content of comparison.json, with its tables."""

    def table(self) -> pd.DataFrame:
        """One row per measure: A, B, their difference (B - A) with its interval, in the column `unit`; and p."""
        rows = []
        for change in self.changes:
            numbers = {
                "a": change.a.value,
                "b": change.b.value,
                "difference": change.difference.value,
                "low": change.difference.low,
                "high": change.difference.high,
            }
            scale = 100 if change.unit == "%" else 1
            scaled = {name: None if value is None else scale * value for name, value in numbers.items()}
            about = {"of": change.of, "measure": change.measure, "unit": change.unit, "n": change.n}
            rows.append(about | scaled | {"p": change.p})
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        return f"<ComparisonResult of {self.a} and {self.b}: {' '.join(conclusions(self))}>"

    def _repr_html_(self) -> str:
        return overview_html(comparison_overview(self))


def compare(a: Compared, b: Compared, seed: int = 0) -> ComparisonResult:
    """What changed from `a` to `b`: two searches or two evaluations, in memory or on disk.

        >>> interp.compare("run", result).table()["difference"].abs().max().item()
        0.0

    On disk they are folders of `interp find-features` and files of `finetune evaluate --out`; a folder with
    evaluation.json and without layers.json is an evaluation too. Differences are paired, with intervals
    over patients, if both were measured on the same questions and kept their items (`--keep-items`). Raises InputError
    for anything else, if there is nothing to compare, if one is a search and the other an evaluation, and for damaged
    files.
    """
    for name, given in (("a", a), ("b", b)):
        expect_one_of(
            name, given, Compared, "a folder of a search, a file of an evaluation, or the result of either in memory"
        )
    sides = [_side(given) for given in (a, b)]
    names = _names(*(side.path for side in sides))
    first, second = (side.artifact for side in sides)
    items = sides[0].items, sides[1].items
    if isinstance(first, Layers) and isinstance(second, Layers):
        return _result(compare_searches(names, (first, second), items, seed))
    if isinstance(first, Evaluation) and isinstance(second, Evaluation):
        return _result(compare_evaluations(names, (first, second), items, seed))
    raise InputError(f"{names[0]}, {names[1]}: one is a search and the other an evaluation. Compare two of a kind.")


def _result(found: Comparison) -> ComparisonResult:
    return ComparisonResult(**dict(found))


class _Side(NamedTuple):
    """One of the two results."""

    artifact: Layers | Evaluation
    """Its content."""
    items: pd.DataFrame | None
    """What it measured on every wording; None if that was not kept."""
    path: Path | None
    """Its file or folder; None if it is in memory."""


def _side(given: Compared) -> _Side:
    if isinstance(given, FindResult):
        return _Side(given.artifact, given.flip_table(), None)
    if isinstance(given, Evaluation):
        return _Side(given, getattr(given, "item_table", None), None)
    given = Path(given.folder if isinstance(given, LoadedRun) else given)
    kind, path = _file(given)
    if kind == "search":
        return _Side(read_layers(path), _items(path.with_name(ITEMS), "search"), given)
    return _Side(read_artifact(path, Evaluation), _items(evaluation_items_path(path), "evaluation"), given)


def _file(path: Path) -> tuple[ItemKind, Path]:
    """Which kind of result `path` is, and its JSON file."""
    if path.is_dir():
        for kind, name in (("search", LAYERS), ("evaluation", EVALUATION)):
            if (path / name).is_file():
                return ("search" if kind == "search" else "evaluation"), path / name
        raise InputError(f"{path}: holds neither {LAYERS} nor {EVALUATION}. Give the folder of a run.")
    if not path.is_file():
        raise InputError(f"{path}: no such file or folder. Give a folder of a search, or a file of an evaluation.")
    return ("search" if path.name == LAYERS else "evaluation"), path


def _names(a: Path | None, b: Path | None) -> tuple[str, str]:
    """The last parts of two paths, with as many folders before them as tell them apart; A and B without a path."""
    if a is None or b is None:
        return ("A" if a is None else _parts(a)[-1]), ("B" if b is None else _parts(b)[-1])
    parts = [_parts(path) for path in (a, b)]
    for depth in range(1, 1 + max(map(len, parts))):
        first, second = ("/".join(part[-depth:]) for part in parts)
        if first != second:
            return first, second
    return "A", "B"


def _parts(path: Path) -> list[str]:
    """The parts of a path, without control characters."""
    return [str(cleaned(part)) for part in path.absolute().parts[1:]]


def _items(path: Path, kind: ItemKind) -> pd.DataFrame | None:
    return read_items(path, kind)[0] if path.is_file() else None

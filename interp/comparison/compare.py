"""`compare`: reads two searches or two evaluations, and says what changed."""

from pathlib import Path

import pandas as pd

from interp.comparison.evaluations import compare_evaluations
from interp.comparison.searches import compare_searches
from interp.runtime.errors import InputError
from interp.schemas.comparison import Comparison
from interp.schemas.evaluation import Evaluation
from interp.schemas.items import ITEMS, ItemKind, evaluation_items_path, read_items
from interp.schemas.layers import read_layers
from interp.schemas.read import cleaned, read_artifact
from interp.views.notebook import overview_html
from interp.views.tables.comparison import comparison_overview, conclusions

LAYERS, EVALUATION = "layers.json", "evaluation.json"


class ComparisonResult(Comparison):
    """What `compare` found: the content of comparison.json, with its tables."""

    def table(self) -> pd.DataFrame:
        """One row per measure: A, B, their difference (B - A) with its interval, and p."""
        return pd.DataFrame(
            [
                {
                    "of": change.of,
                    "measure": change.measure,
                    "unit": change.unit,
                    "n": change.n,
                    "a": change.a.value,
                    "b": change.b.value,
                    "difference": change.difference.value,
                    "low": change.difference.low,
                    "high": change.difference.high,
                    "p": change.p,
                }
                for change in self.changes
            ]
        )

    def __repr__(self) -> str:
        return f"<ComparisonResult of {self.a} and {self.b}: {' '.join(conclusions(self))}>"

    def _repr_html_(self) -> str:
        return overview_html(comparison_overview(self))


def compare(a: str | Path, b: str | Path, seed: int = 0) -> ComparisonResult:
    """What changed from `a` to `b`: two folders of `interp find-features`, or two files of `finetune evaluate --out`.

        interp.compare("run-a", "run-b").table()

    A folder with evaluation.json and without layers.json is an evaluation too. Differences are paired, with intervals
    over patients, if both were measured on the same questions and kept their items (`--keep-items`). Raises InputError
    if there is nothing to compare, if one is a search and the other an evaluation, and for damaged files.
    """
    files = [_file(Path(path)) for path in (a, b)]
    kinds = [kind for kind, _ in files]
    if kinds[0] != kinds[1]:
        raise InputError(f"{a}, {b}: one is a search and the other an evaluation. Compare two of a kind.")
    paths = [path for _, path in files]
    names = _names(Path(a), Path(b))
    if kinds[0] == "search":
        items = [_items(path.with_name(ITEMS), "search") for path in paths]
        searches = read_layers(paths[0]), read_layers(paths[1])
        return _result(compare_searches(names, searches, (items[0], items[1]), seed))
    items = [_items(evaluation_items_path(path), "evaluation") for path in paths]
    found = [read_artifact(path, Evaluation) for path in paths]
    return _result(compare_evaluations(names, (found[0], found[1]), (items[0], items[1]), seed))


def _result(found: Comparison) -> ComparisonResult:
    return ComparisonResult(**dict(found))


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


def _names(a: Path, b: Path) -> tuple[str, str]:
    """The last parts of two paths, with as many folders before them as tell them apart."""
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

"""Finding the artifacts in the folder of a run by their names, and checking them as they are read."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import pandas as pd

from interp.runtime.errors import InputError, first_line
from interp.schemas.ablation import Ablation
from interp.schemas.adapter import AdapterRecord
from interp.schemas.evaluation import Evaluation
from interp.schemas.grounding import Grounding
from interp.schemas.items import ITEMS, TEXT, ItemKind, read_items
from interp.schemas.layers import Layers, read_layers
from interp.schemas.read import checked, cleaned, read_shown
from interp.schemas.study import Study
from interp.storage.folders import check_folder
from interp.views.figures.training import COLUMNS

DELTA = {"layer": "int64", "feature": "int64", "delta": "float64", "shift": "float64", "flipped": "bool"}
"""Column of delta_margin.csv -> its data type."""
REGISTER = {"layer": "int64", "feature": "int64", "register": "str", "activation": "float64"}
"""Column of register.csv -> its data type."""
GRID = {"level": "int64", "frame": "str", "mean_activation": "float64"}
"""Column of grid.csv -> its data type."""
HISTORY = dict.fromkeys(COLUMNS, "float64")
"""Column of history.csv -> its data type."""
WORDINGS = {"end": "str", "text": "str", "images": "int64", "mean_activation": "float64", "register": "str"}
"""Column of wordings.csv -> its data type."""
SCREENED = ["layer", "feature", "flip_p"]
"""Columns that features.parquet must have; the explorer shows those of its others that it knows."""
FILES = "layers.json, study.json, evaluation.json, gatescope.json, history.csv, ablation.json, grounding.json"


@dataclass(frozen=True)
class Studied:
    """A folder with the study of one feature."""

    name: str
    """Name of the folder; empty for the folder of the run itself."""
    study: Study
    """study.json."""
    cells: pd.DataFrame
    """grid.csv, one row for each frame and finding of the register grid, columns GRID."""
    delta: pd.DataFrame | None
    """delta_margin.csv, one row for each pair, columns DELTA, or None if there is none."""
    wordings: pd.DataFrame | None
    """wordings.csv, question text in columns WORDINGS; None if there is none or text is not wanted."""


@dataclass(frozen=True)
class Trained:
    """A folder with an adapter, or with only an evaluation."""

    name: str
    """Name of the folder; empty for the folder of the run itself."""
    record: AdapterRecord | None
    """gatescope.json, or None if there is none."""
    history: pd.DataFrame | None
    """history.csv with at least the columns of `interp.views.figures.training`, or None if there is none."""
    evaluation: Evaluation | None
    """evaluation.json, or None if there is none."""


@dataclass(frozen=True)
class Grounded:
    """A folder with a grounding study."""

    name: str
    """Name of the folder; empty for the folder of the run itself."""
    study: Grounding
    """grounding.json."""
    examples: bytes | None
    """The pixels of examples.png (maps over images) as PNG; None if there is none or examples are not wanted."""


@dataclass(frozen=True)
class KeptItems:
    """A table of items, which `--keep-items` wrote."""

    title: str
    """What was measured, and the folder and file that the table lies beside."""
    kind: ItemKind
    """Whether a search or an evaluation measured them."""
    table: pd.DataFrame
    """The items, columns of `interp.schemas.items.COLUMNS`, with those of TEXT if `texts`."""
    texts: bool
    """Whether ids and wordings are there and wanted."""


@dataclass(frozen=True)
class Collected:
    """Everything that a report can show."""

    layers: Layers | None
    """layers.json, or None if there is none."""
    screened: pd.DataFrame | None
    """features.parquet, one row for each feature that is ever active, at least SCREENED; None if there is none."""
    delta: pd.DataFrame | None
    """delta_margin.csv of the first feature, one row for each pair, columns DELTA, or None if there is none."""
    register: pd.DataFrame | None
    """register.csv of the first feature, one row per tagged wording, columns REGISTER, or None if there is none."""
    studied: list[Studied]
    """Studies of single features, ordered by the name of their folder."""
    trained: list[Trained]
    """Adapters and evaluations, ordered by the name of their folder."""
    grounded: list[Grounded]
    """Grounding studies, ordered by the name of their folder."""
    ablated: dict[str, Ablation]
    """Name of the folder -> ablation.json."""
    items: list[KeptItems] = field(default_factory=list)
    """What was kept on every single wording: of the search first, then of evaluations by their folder."""

    @property
    def evaluations(self) -> list[tuple[str, Evaluation]]:
        """The name of the folder and the content of every evaluation."""
        return [(each.name, each.evaluation) for each in self.trained if each.evaluation]

    @property
    def examples(self) -> bool:
        """Whether the report shows medical images."""
        return any(each.examples for each in self.grounded)

    @property
    def texts(self) -> bool:
        """Whether the report shows wordings of the user's questions; those of the embedded world are no secret."""
        return any(each.texts for each in self.items) or any(
            each.wordings is not None and not (each.study.content and each.study.content.synthetic)
            for each in self.studied
        )

    @property
    def synthetic(self) -> bool:
        """Whether a model of the run was built by `interp demo`, or a study's questions are of the embedded world."""
        models = [self.layers.model] if self.layers else []
        models += [each.record.model for each in self.trained if each.record]
        models += [each.model for each in self.ablated.values()]
        of_studies = any(each.study.content is not None and each.study.content.synthetic for each in self.studied)
        return of_studies or any(model.synthetic for model in models)


def collect(run: Path, include_examples: bool = False, include_text: bool = False) -> Collected:
    """Read every known artifact in `run` and in the folders directly inside it.

    Wordings of the embedded world are read always, others with `include_text`. layers.json and features.parquet are
    read from `run` only. Raises InputError if `run` is not a folder or holds no known artifact, if a file is damaged,
    and if examples are wanted but there is no examples.png.
    """
    check_folder(run, "Give the one that `interp find-features --out` wrote.")
    folders = [run, *sorted(path for path in run.iterdir() if path.is_dir() and not path.name.startswith("."))]
    named = [("" if folder == run else cleaned(folder.name), folder) for folder in folders]
    found = Collected(
        layers=_layers(run / "layers.json"),
        screened=_screened(run / "features.parquet"),
        delta=_frame(run / "delta_margin.csv", DELTA),
        register=_frame(run / "register.csv", REGISTER),
        studied=[each for name, folder in named for each in _studied(name, folder, include_text)],
        trained=[each for name, folder in named for each in _trained(name, folder)],
        grounded=[each for name, folder in named for each in _grounded(name, folder, include_examples)],
        ablated={
            name: read_shown(path, Ablation) for name, folder in named if (path := folder / "ablation.json").is_file()
        },
        items=[each for name, folder in named for each in _items(name, folder, include_text)],
    )
    if found.layers is None and not (found.studied or found.trained or found.grounded or found.ablated):
        raise InputError(f"{run}: nothing to report, neither there nor in a folder inside it: found none of {FILES}.")
    if include_examples and not found.examples:
        raise InputError(
            f"{run}: no examples.png of a grounding study to include. Make one with `finetune grounding "
            "--include-examples 3 --out`, or leave --include-examples out."
        )
    return found


def _layers(path: Path) -> Layers | None:
    if not path.is_file():
        return None
    return checked(path, Layers, cleaned(read_layers(path).model_dump(mode="json")))


def _screened(path: Path) -> pd.DataFrame | None:
    if not path.is_file():
        return None
    try:
        frame = pd.read_parquet(path)
        if missing := [name for name in SCREENED if name not in frame]:
            raise ValueError(f"no column {missing[0]}")
        return frame
    # pyarrow raises exceptions of several kinds for damaged bytes.
    except Exception as error:
        raise InputError(
            f"{path}: no table with the columns {', '.join(SCREENED)} ({_first_line(error)}). Remove it, or run "
            "`interp find-features` again."
        ) from None


def _items(name: str, folder: Path, include_text: bool) -> Iterator[KeptItems]:
    """The tables of items in a folder, without ids and wordings unless they are wanted."""
    kinds: list[tuple[ItemKind, list[Path]]] = [("search", [folder / ITEMS]), ("evaluation", [])]
    kinds[1][1].extend(sorted(folder.glob(f"*_{ITEMS}")))
    for kind, paths in kinds:
        for path in (path for path in paths if path.is_file()):
            table, record = read_items(path, kind)
            texts = include_text and record.with_text
            kept = table if texts else table.drop(columns=list(TEXT), errors="ignore")
            where = f"{name}/{cleaned(path.name)}" if name else cleaned(path.name)
            yield KeptItems(f"Every wording of the {kind}, {where}", kind, kept, texts)


def _studied(name: str, folder: Path, include_text: bool) -> Iterator[Studied]:
    path, grid = folder / "study.json", folder / "grid.csv"
    if path.is_file():
        cells = _frame(grid, GRID)
        if cells is None:
            raise InputError(f"{grid}: no such file beside study.json. Run `interp test-feature` again.")
        study = read_shown(path, Study)
        shows_text = include_text or (study.content is not None and study.content.synthetic)
        wordings = _frame(folder / "wordings.csv", WORDINGS) if shows_text else None
        yield Studied(name, study, cells, _frame(folder / "delta_margin.csv", DELTA), wordings)


def _trained(name: str, folder: Path) -> Iterator[Trained]:
    record, history, evaluation = (folder / part for part in ("gatescope.json", "history.csv", "evaluation.json"))
    if any(path.is_file() for path in (record, history, evaluation)):
        yield Trained(
            name,
            read_shown(record, AdapterRecord) if record.is_file() else None,
            _frame(history, HISTORY),
            read_shown(evaluation, Evaluation) if evaluation.is_file() else None,
        )


def _frame(path: Path, columns: dict[str, str]) -> pd.DataFrame | None:
    """Read a CSV file with these columns of these types and at least one row; None if there is no such file."""
    if not path.is_file():
        return None
    try:
        frame = pd.read_csv(path, float_precision="round_trip")
        missing = [name for name in columns if name not in frame]
        if missing or not len(frame):
            raise ValueError(f"no column {missing[0]}" if missing else "no row")
        return frame.astype(columns)
    except (ValueError, OSError) as error:
        raise InputError(
            f"{path}: no table with the columns {', '.join(columns)} ({_first_line(error)}). Remove it, or "
            "write it again."
        ) from None


def _grounded(name: str, folder: Path, include_examples: bool) -> Iterator[Grounded]:
    path, picture = folder / "grounding.json", folder / "examples.png"
    if path.is_file():
        shown = _picture(picture) if include_examples and picture.is_file() else None
        yield Grounded(name, read_shown(path, Grounding), shown)


def _picture(path: Path) -> bytes:
    """The pixels of an image as PNG, without the metadata of the file.

    The metadata could say that matplotlib wrote it, and `interp scrub` would then take radiographs for a figure.
    """
    from PIL import Image

    pixels = BytesIO()
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            picture.convert("RGB").save(pixels, "PNG")
    # Pillow raises exceptions of several kinds for damaged files.
    except Exception as error:
        raise InputError(f"{path}: not a complete PNG file ({_first_line(error)}). Remove it.") from None
    return pixels.getvalue()


def _first_line(error: Exception) -> str:
    return first_line(error)

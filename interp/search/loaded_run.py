"""A search that is read from its folder, as one reads it when it is fresh."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from interp.runtime.errors import InputError, first_line
from interp.schemas.items import ITEMS, read_items
from interp.schemas.layers import Layers, read_layers
from interp.search.result import SearchResult
from interp.search.run_folder import LAYERS


@dataclass(frozen=True, repr=False)
class LoadedRun(SearchResult):
    """A search from the folder that `interp find-features` or `interp.save_result` wrote.

    >>> interp.load_run("run").layers == result.layers
    True
    """

    artifact: Layers
    """The content of layers.json."""
    features: pd.DataFrame
    """features.parquet: every feature that is ever active."""
    folder: Path
    """The folder."""

    def flip_table(self, text: bool = False) -> pd.DataFrame:
        """Every pair of wordings, with the columns of `interp.schemas.items.SEARCH_ITEMS`.

        `text` keeps the two wordings, and `interp.with_questions` adds ids. Raises InputError if the run did not keep
        its items, or with `text` if it kept no wordings.
        """
        table, _ = read_items(self.folder / ITEMS, "search")
        if text and "text" not in table:
            raise InputError(
                f"{self.folder / ITEMS}: holds no wordings. Search again with --keep-items --include-text, or add them "
                "with interp.with_questions."
            )
        return table if text else table.drop(columns=["original", "text"], errors="ignore")

    def top_delta(self) -> pd.DataFrame:
        """The top feature's delta and the margin shift of every pair (`interp.views.figures.margin.delta_frame`).

        Raises InputError if no feature was tested, or if delta_margin.csv is damaged.
        """
        self._check_feature()
        return _table(self.folder / "delta_margin.csv")

    def top_by_register(self) -> pd.DataFrame:
        """The top feature's activation on every wording with a register (`interp.views.figures.register`).

        Empty if no wording has a register. Raises InputError if no feature was tested, or if register.csv is damaged.
        """
        from interp.views.figures.register import register_frame

        self._check_feature()
        path, top = self.folder / "register.csv", self.artifact.features[0]
        return _table(path) if path.is_file() else register_frame(top.layer, top.feature, [], [])


def load_run(folder: str | Path = "artifacts") -> LoadedRun:
    """Read the folder of a search, which then has the tables and figures of a fresh one.

        >>> axes = interp.load_run("run").plot_profile()

    Raises InputError if there is no search in it, or if a file is damaged or of a newer schema.
    """
    folder = Path(folder)
    artifact = read_layers(folder / LAYERS)
    return LoadedRun(artifact, _table(folder / "features.parquet"), folder)


def _table(path: Path) -> pd.DataFrame:
    try:
        if path.suffix == ".csv":
            return pd.read_csv(path, float_precision="round_trip")
        return pd.read_parquet(path)
    # pyarrow raises exceptions of several kinds for damaged bytes.
    except Exception as error:
        raise InputError(
            f"{path}: no such table, or a damaged one ({first_line(error)}). Copy the run again."
        ) from None

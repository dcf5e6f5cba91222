"""The result of a search, fresh (`FindResult`) or from its folder (`interp.search.loaded_run`), and its figures."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interp.runtime.errors import InputError
from interp.schemas.layers import GateVerdict, Layers, ProfileEntry
from interp.screening.flips import Flips, selection_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from interp.views.figures.style import Drawing


INTERNAL = frozenset({"drawings", "top_activations", "top_by_register", "top_delta", "top_recovery"})
"""Attributes of a result that completion does not offer: the data behind its tables and figures."""


class SearchResult(ABC):
    """A search: what it found, its tables and its figures."""

    artifact: Layers
    """The content of layers.json."""
    features: pd.DataFrame
    """Every feature that is ever active: columns of SCREEN_COLUMNS, held_out_auc and those of TEST_COLUMNS."""

    @property
    def verdict(self) -> GateVerdict:
        """What the search concludes, a gate or not; `artifact.reason` says why."""
        return self.artifact.verdict

    @property
    def layers(self) -> list[int]:
        """The layers to train, ascending; empty if none can be told."""
        return self.artifact.layers

    @property
    def profile(self) -> list[ProfileEntry]:
        """The layer profile with its intervals, one entry per profiled layer; `table` is a shorter form."""
        return self.artifact.profile

    def table(self) -> pd.DataFrame:
        """The layer profile as a table: one row per profiled layer, estimates without their intervals.

        The features are not in it; `features` is their table.
        """
        rows = [entry.model_dump() for entry in self.profile]
        known = [{k: v["value"] if isinstance(v, dict) else v for k, v in row.items()} for row in rows]
        return pd.DataFrame(known).rename_axis(columns="layer profile")

    @abstractmethod
    def top_delta(self) -> pd.DataFrame:
        """The top feature's delta and the margin shift of every pair (`interp.views.figures.margin.delta_frame`).

        Raises InputError if no feature was tested.
        """

    @abstractmethod
    def top_by_register(self) -> pd.DataFrame:
        """The top feature's activation on every wording with a register (`interp.views.figures.register`).

        Raises InputError if no feature was tested.
        """

    def drawings(self) -> "list[Drawing]":
        """Every figure that the search has data for."""
        from interp.views.figures.register import REGISTERS
        from interp.views.figures.search import search_drawings

        if not self.artifact.features:
            return search_drawings(self.artifact, None, None)
        wordings = self.top_by_register()
        tagged = set(REGISTERS) <= set(wordings["register"])
        return search_drawings(self.artifact, self.top_delta(), wordings if tagged else None)

    def plot_profile(self, axes: "Sequence[Axes] | None" = None) -> "list[Axes]":
        """Draw the layer profile: flip AUC above, recovered shares below.

        `axes` are two; by default a new figure is made and shown by pyplot. Axes that are given need no pyplot. This
        holds for every `plot_` method.
        """
        from interp.views.figures.profile import layer_profile
        from interp.views.notebook import shown

        figure = layer_profile(self.artifact, axes)
        return shown(figure) if axes is None else list(axes)

    def plot_margin(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the top feature's delta against the margin shift, one point per pair.

        Raises InputError if no feature was tested.
        """
        from interp.views.figures.margin import delta_against_margin
        from interp.views.notebook import plotted

        return plotted(delta_against_margin, self.top_delta(), ax)

    def plot_register(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the top feature's activation on formal and on casual wordings.

        Raises InputError if no feature was tested.
        """
        from interp.views.figures.register import activation_by_register
        from interp.views.notebook import plotted

        return plotted(activation_by_register, self.top_by_register(), ax)

    def _check_feature(self) -> None:
        if not self.artifact.features:
            raise InputError("No feature was tested, so there is none to draw: no banked flips, or no feature moves.")

    def __dir__(self) -> list[str]:
        """What completion offers."""
        return [name for name in super().__dir__() if name not in INTERNAL]

    def __repr__(self) -> str:
        """Model, verdict and range, without any question."""
        from interp.views.tables.ranges import range_line

        return (
            f"<{type(self).__name__} of {self.artifact.model.id}: {self.artifact.verdict}, {range_line(self.artifact)}>"
        )

    def _repr_html_(self) -> str:
        from interp.views.notebook import overview_html
        from interp.views.tables.search import search_overview

        return overview_html(search_overview(self.artifact))


@dataclass(frozen=True, repr=False)
class FindResult(SearchResult):
    """What `find_features` found, and the data of its figures.

    >>> result.table()["layer"].tolist()
    [3, 4, 5, 6]
    >>> flips = result.flip_table(text=True).query("flipped")
    >>> axes = result.plot_profile()
    """

    artifact: Layers
    """The content of layers.json."""
    features: pd.DataFrame
    """Every feature that is ever active: columns of SCREEN_COLUMNS, held_out_auc and those of TEST_COLUMNS."""
    flips: Flips
    """All pairs of closed questions."""
    top_activations: NDArray[np.float32]
    """[n prompts]: activation of the top feature, the first of `artifact.features`, on every wording."""
    prompts: pd.DataFrame
    """The prompt table. It holds question text and is never written to a file."""
    top_recovery: NDArray[np.float64]
    """[pairs]: share of the margin shift that the top feature's patch recovers; NaN for pairs that were not patched."""

    def flip_table(self, text: bool = False) -> pd.DataFrame:
        """Every pair of an original and another wording: margins, whether they flip, and what the top feature does.

        One row per pair, with the question's id and the columns of `interp.schemas.items.SEARCH_ITEMS`; `text` adds the
        two wordings. It is what `--keep-items` writes.
        """
        from interp.search.items import search_items

        held_out = ~selection_rows(self.flips, self.artifact.seed)
        table = search_items(self.prompts, self.flips, held_out, self._pair_delta(), self.top_recovery)
        return table if text else table.drop(columns=["original", "text"])

    def top_delta(self) -> pd.DataFrame:
        """The top feature's delta and the margin shift of every pair (`interp.views.figures.margin.delta_frame`).

        Raises InputError if no feature was tested.
        """
        from interp.views.figures.margin import delta_frame

        self._check_feature()
        top = self.artifact.features[0]
        shift = self.flips.margin_after - self.flips.margin_before
        return delta_frame(top.layer, top.feature, self._pair_delta(), shift, self.flips.flipped)

    def top_by_register(self) -> pd.DataFrame:
        """The top feature's activation on every wording with a register (`interp.views.figures.register`).

        Raises InputError if no feature was tested.
        """
        from interp.views.figures.register import register_frame

        self._check_feature()
        top = self.artifact.features[0]
        return register_frame(top.layer, top.feature, self.top_activations, self.prompts["register"].to_numpy())

    def _pair_delta(self) -> NDArray[np.float32]:
        """[pairs]: the top feature's f(p) - f(q) [activation units]."""
        pairs = self.flips.pairs
        return self.top_activations[pairs["paraphrase"]] - self.top_activations[pairs["original"]]

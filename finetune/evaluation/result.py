"""The result of an evaluation in memory: the content of evaluation.json, its items, tables and figures."""

import math
from typing import TYPE_CHECKING, Any

import pandas as pd
from pydantic import Field, InstanceOf

from interp.runtime.errors import InputError
from interp.schemas import evaluation as schema
from interp.schemas.record import Interval
from interp.views.labels import scale_of, unit_of
from interp.views.notebook import Details, plotted, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Evaluation(schema.Evaluation):
    """Some arms side by side on one set of questions; the first is the base.

        >>> broken = evaluation.items().query("not flipped_before and flipped_after")
        >>> evaluation.table()[["arm", "measure", "unit"]].head(1).values.tolist()
        [['adapter', 'question_flip_rate', '%']]
        >>> axes = evaluation.plot_changes()

    Numbers have six significant digits and are None where they are undefined, as in evaluation.json.
    """

    item_table: InstanceOf[pd.DataFrame] | None = Field(
        default=None, exclude=True, description="one row per arm and wording (`finetune.evaluation.items`)"
    )

    def items(self, text: bool = False) -> pd.DataFrame:
        """What every arm did on each single wording, before and after: the columns of `interp.schemas.items`.

            >>> broken = evaluation.items().query("not flipped_before and flipped_after")

        With `text` also the two wordings. Raises InputError for a loaded evaluation that did not keep its items.
        """
        if self.item_table is None:
            raise InputError("This evaluation did not keep its items. Evaluate again with --keep-items.")
        if text and "text" not in self.item_table:
            raise InputError("These items were kept without text. Give interp.with_questions the questions too.")
        return self.item_table if text else self.item_table.drop(columns=["original", "text"], errors="ignore")

    def find(self, arm: str, measure: str, kind: str = "all", subset: str = "all") -> schema.Comparison:
        """The comparison of an arm or pool with the base. Raises KeyError if there is none."""
        return self.against_base()[arm, measure, kind, subset]

    def table(self) -> pd.DataFrame:
        """One row per comparison, with its numbers in the column `unit`, as the command line shows them.

        Value, low and high of each estimate are columns of their own. evaluation.json holds shares instead of percent.
        """
        return pd.DataFrame([_flat(comparison) for comparison in self.comparisons])

    def details(self) -> Details:
        """Every table, for a notebook; the evaluation itself shows those that decide."""
        from interp.views.tables.evaluation import evaluation_overview

        return Details(evaluation_overview(self, full=True))

    def plot_changes(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the changes against the base into `ax`, or into a new figure; returns the axes."""
        from interp.views.figures.evaluation import changes_against_base, changes_frame

        return plotted(changes_against_base, changes_frame(self.model_dump()), ax)

    def plot_reliability(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the share of right answers by confidence, one line per arm."""
        from interp.views.figures.evaluation import reliability, reliability_frame

        return plotted(reliability, reliability_frame(self.model_dump()), ax)

    def plot_quadrants(self) -> "list[Axes]":
        """Show the quadrants of every arm in a new figure, one panel per kind of reliance."""
        from interp.views.figures.evaluation import shown_arms
        from interp.views.figures.quadrants import quadrants, quadrants_frame

        content = self.model_dump()
        return shown(quadrants(quadrants_frame(content, shown_arms(content))))

    def __repr__(self) -> str:
        return f"<Evaluation of {self.model}: {' '.join(self.sentences)}>"

    def _repr_html_(self) -> str:
        from interp.views.notebook import overview_html
        from interp.views.tables.deciding import evaluation_brief

        return overview_html(evaluation_brief(self))


def _flat(comparison: schema.Comparison) -> dict[str, Any]:
    """A comparison as one row: the ends of its intervals are entries of their own, undefined numbers NaN."""
    row: dict[str, Any] = {}
    scale = scale_of(comparison.measure).factor
    for name, value in comparison:
        if isinstance(value, Interval):
            ends = {"": value.value, "_low": value.low, "_high": value.high}
            row |= {f"{name}{end}": scale * _nan(number) for end, number in ends.items()}
        elif name == "measure":
            row |= {name: value, "unit": unit_of(value)}
        else:
            row[name] = _nan(value) if value is None else value
    return row


def _nan(value: float | None) -> float:
    return math.nan if value is None else value

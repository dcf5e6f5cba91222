"""What a measure is: a definition, the units that it samples and a statistic over them; and the units of means."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from finetune.evaluation.answers import Answers, Bools, EvaluationTable, SamplingUnits, Subset
from interp.statistics import Statistic, mean_of_totals

UnitsOf = Callable[[EvaluationTable, Answers], SamplingUnits]


class Measure(NamedTuple):
    """A number that an evaluation computes for each arm."""

    definition: str
    """What the measure is, as a sentence with its source."""
    units: UnitsOf
    """Returns the units of the measure with their columns."""
    unit: Literal["%", "logits", ""]
    """Unit of the number. A share is a number from 0 to 1 that is displayed in percent."""
    statistic: Statistic = mean_of_totals
    """Computes the number from the column totals of the units."""
    binary: bool = False
    """Whether each unit is one yes or no for a question that both arms answered, as the published test assumes."""
    grouped: bool = True
    """Whether it is also computed in groups of the questions, not only over all."""

    def applies(self, subset: Subset) -> bool:
        """Whether it is computed in a group."""
        return self.grouped or subset.kind == "all"


def mean_units(values: NDArray, patients: pd.Series | NDArray) -> SamplingUnits:
    """Units whose statistic is a plain mean of `values` [k]; `patients` [k] are their patients."""
    values = np.asarray(values, float)
    return SamplingUnits(np.stack([values, np.ones(len(values))], axis=1), list(patients))


def over_prompts(table: EvaluationTable, values: NDArray, rows: Bools) -> SamplingUnits:
    """Units of the mean of `values` [n] over those wordings of the subset that `rows` [n] selects."""
    rows = rows & table.subset.prompts
    return mean_units(np.asarray(values)[rows], table.prompts["patient"].to_numpy(object)[rows])


def over_pairs(table: EvaluationTable, values: NDArray) -> SamplingUnits:
    """Units of the mean of `values` [m] over the pairs of the subset."""
    rows = table.subset.pairs
    return mean_units(np.asarray(values)[rows], table.pairs["patient"].to_numpy(object)[rows])


def any_of_question(table: EvaluationTable, values: Bools, pairs: Bools) -> SamplingUnits:
    """For each question that has one of these `pairs` [m], whether `values` [m] holds for any of them."""
    chosen = table.pairs[pairs].assign(value=values[pairs])
    questions = chosen.groupby("question", sort=True).agg(value=("value", "any"), patient=("patient", "first"))
    return mean_units(questions["value"].to_numpy(float), questions["patient"].to_numpy(object))

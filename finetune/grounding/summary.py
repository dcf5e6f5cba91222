"""What the scores of many questions come to: means, net of controls, with intervals over patients and paired tests."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from interp.statistics import Estimate, Paired, mean_of_totals, paired_statistic

KEYS = ["map", "score", "against"]


class ArmSummary(NamedTuple):
    """One score of one map in one arm, against one control."""

    arm: str
    """base or adapter."""
    map: str
    """Name of the map; "model" where no map is judged but the model itself."""
    score: str
    """As in `finetune.grounding.score_table.SCORES`."""
    against: str
    """The control."""
    n: int
    """Questions that have both."""
    patients: int
    """Patients of these, or images where unknown."""
    value: Estimate
    """Mean of the score."""
    control: Estimate
    """Mean of the control."""
    net: Estimate
    """Mean of score less control."""
    p: float
    """Two-sided p that the net is zero, signs flipped by patient; not adjusted for the number of rows."""


class ArmDifference(NamedTuple):
    """How much larger the net of one score is with the adapter than without, on the same questions."""

    map: str
    """As in `ArmSummary`."""
    score: str
    """As in `ArmSummary`."""
    against: str
    """As in `ArmSummary`."""
    n: int
    """Questions that have the net in both arms."""
    patients: int
    """Patients of these."""
    difference: Estimate
    """Adapter - base, mean over the questions of the net."""
    p: float
    """Two-sided p, signs flipped by patient; not adjusted."""


def summaries(scores: pd.DataFrame, patients: Sequence[str], seed: int) -> list[ArmSummary]:
    """One entry for every arm, map, score and control of a long table of scores, in the table's order.

    `patients` [questions] says whose each question is. What is undefined, value or control, does not count; an entry
    that counts nothing is left out. Intervals are NaN for fewer than MIN_PATIENTS patients.
    """
    found = []
    for (arm, *names), rows in scores.dropna(subset=["value", "control"]).groupby(["arm", *KEYS], sort=False):
        whose = [patients[i] for i in rows["question"]]
        against = _paired(rows["control"], rows["value"], whose, seed)
        count = (len(rows), len(set(whose)))
        value, control, net, p = against.after, against.before, against.difference, against.p
        found.append(ArmSummary(arm, *_key(names), *count, value, control, net, p))
    return found


def differences(scores: pd.DataFrame, patients: Sequence[str], seed: int) -> list[ArmDifference]:
    """Adapter - base of every net; none if there is one arm only."""
    found = []
    net = scores.assign(net=scores["value"] - scores["control"])
    for names, rows in net.groupby(KEYS, sort=False):
        table = rows.pivot(index="question", columns="arm", values="net").dropna()
        if not {"base", "adapter"} <= set(table) or not len(table):
            continue
        whose = [patients[i] for i in table.index]
        change = _paired(table["base"], table["adapter"], whose, seed)
        found.append(ArmDifference(*_key(names), len(table), len(set(whose)), change.difference, change.p))
    return found


def _key(names: Iterable[object]) -> tuple[str, str, str]:
    name, score, against = map(str, names)
    return name, score, against


def _paired(before: pd.Series, after: pd.Series, patients: Sequence[str], seed: int) -> Paired:
    """Means of two series over the same questions, and of the second less the first."""
    first, second = (np.stack([values.to_numpy(float), np.ones(len(values))], axis=1) for values in (before, after))
    return paired_statistic(mean_of_totals, first, second, (patients, patients), seed)

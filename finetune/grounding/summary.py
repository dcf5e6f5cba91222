"""Means of the scores over many questions, net of their controls, with intervals over patients and paired tests."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from interp.schemas.grounding import GroundingDifference, GroundingSummary
from interp.schemas.record import interval_of
from interp.statistics import Paired, mean_of_totals, paired_statistic
from interp.storage.json_files import significant

KEYS = ["map", "score", "against"]


def summaries(scores: pd.DataFrame, patients: Sequence[str], seed: int) -> list[GroundingSummary]:
    """One entry per arm, map, score and control of a long table of scores, in the order of the table.

    `patients` [questions] holds the patient of each question. Rows with an undefined value or control are left out, and
    so are entries without rows. Fewer than MIN_PATIENTS patients give no interval.
    """
    found = []
    for (arm, *names), rows in scores.dropna(subset=["value", "control"]).groupby(["arm", *KEYS], sort=False):
        whose = [patients[i] for i in rows["question"]]
        compared = _paired(rows["control"], rows["value"], whose, seed)
        name, score, against = map(str, names)
        found.append(
            GroundingSummary(
                arm=arm,
                map=name,
                score=score,
                against=against,
                n=len(rows),
                patients=len(set(whose)),
                value=interval_of(compared.after),
                control=interval_of(compared.before),
                net=interval_of(compared.difference),
                p=significant(compared.p),
            )
        )
    return found


def differences(scores: pd.DataFrame, patients: Sequence[str], seed: int) -> list[GroundingDifference]:
    """Adapter - base of every net; empty if there is only one arm."""
    found = []
    net = scores.assign(net=scores["value"] - scores["control"])
    for names, rows in net.groupby(KEYS, sort=False):
        table = rows.pivot(index="question", columns="arm", values="net").dropna()
        if not {"base", "adapter"} <= set(table) or not len(table):
            continue
        whose = [patients[i] for i in table.index]
        change = _paired(table["base"], table["adapter"], whose, seed)
        name, score, against = map(str, names)
        found.append(
            GroundingDifference(
                map=name,
                score=score,
                against=against,
                n=len(table),
                patients=len(set(whose)),
                difference=interval_of(change.difference),
                p=significant(change.p),
            )
        )
    return found


def _paired(before: pd.Series, after: pd.Series, patients: Sequence[str], seed: int) -> Paired:
    """The means of two series over the same questions, and the mean of the second minus the first."""
    first, second = (np.stack([values.to_numpy(float), np.ones(len(values))], axis=1) for values in (before, after))
    return paired_statistic(mean_of_totals, first, second, (patients, patients), seed)

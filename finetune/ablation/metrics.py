"""The metrics of every arm, on the questions as they are and on bootstrap draws of their patients.

Everything that an ablation says is a function of these draws, in which all arms meet the same patients.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from finetune.evaluation.answers import Answers, Sheet, Subset, judged
from finetune.evaluation.measures import MEASURES
from interp.questions.schema import Question
from interp.questions.tables import pair_table, prompt_table
from interp.runtime.errors import InputError
from interp.statistics import Estimate, FloatArray, cluster_of, clusters_drawn, over_patients_and_seeds, percentiles

COMBINED = "combined"
"""accuracy - question flip rate - max(0, text-only agreement - that of the base).

All three are shares of questions or wordings, so one point of each weighs the same: a convention. Agreement counts only
where it rose: below the base's there is chance, not more looking, and a model that answers right must look anyway.
"""
METRICS = {
    "question_flip_rate": -1,
    "pairwise_flip_rate": -1,
    "margin_difference": -1,
    "accuracy": 1,
    "first_token_accuracy": 1,
    "text_only_agreement": -1,
    "swap_sensitivity": 1,
    "ideal": 1,
    "fragile": -1,
    "dangerous": -1,
    "worst": -1,
    COMBINED: 1,
}
"""Metric -> 1 where more is better, -1 where less is; keys of `finetune.evaluation.measures.MEASURES` and COMBINED.

first_token_accuracy is there for arms that no longer answer yes or no at all, which the margin between the two hides.
"""
DRAWS = 1000
"""Bootstrap draws of the patients."""


class Asked(NamedTuple):
    """What every arm was asked."""

    prompts: pd.DataFrame
    """[n] prompt table."""
    pairs: pd.DataFrame
    """[m] pair table of its closed questions."""
    patients: list[str]
    """[P] the patients, or the images where patients are unknown."""


class Sums(NamedTuple):
    """What the measures sum, by patient."""

    arms: dict[str, FloatArray]
    """Measure -> [P, arms, seeds, columns]."""
    base: dict[str, FloatArray]
    """Measure -> [P, columns]."""


class Outcomes(NamedTuple):
    """The metrics in d weightings of the patients, as draws or halves are."""

    arms: dict[str, FloatArray]
    """Metric -> [d, arms, seeds]."""
    base: dict[str, FloatArray]
    """Metric -> [d]."""


def asked_of(questions: Sequence[Question]) -> Asked:
    """The tables of some questions. Raises InputError unless a closed one has an answer, and one a paraphrase."""
    prompts = prompt_table(questions)
    pairs = pair_table(prompts) if len(prompts) else pd.DataFrame()
    if len(pairs):
        pairs = pairs[prompts["closed"].to_numpy()[pairs["original"]]].reset_index(drop=True)
    if not len(pairs) or not judged(prompts).any():
        raise InputError(
            f"None of the {len(questions)} questions to evaluate on asks for yes or no with a known answer and a "
            "paraphrase, so that arms could not be told apart. Bring others, or raise --limit."
        )
    return Asked(prompts, pairs, sorted(set(map(str, prompts["patient"]))))


def sums_of(asked: Asked, base: Answers, arms: Sequence[Sequence[Answers]]) -> Sums:
    """Column totals by patient of every measure that METRICS needs; `arms` are the answers of each arm, by seed."""
    names = [name for name in METRICS if name != COMBINED]
    return Sums(
        {
            name: np.stack([np.stack([_sums(asked, a, name) for a in seeds], axis=1) for seeds in arms], axis=1)
            for name in names
        },
        {name: _sums(asked, base, name) for name in names},
    )


def _sums(asked: Asked, answers: Answers, measure: str) -> FloatArray:
    """[P, columns] totals of one measure."""
    everything = Subset("all", "all", np.ones(len(asked.prompts), bool), np.ones(len(asked.pairs), bool))
    units = MEASURES[measure].units(Sheet(asked.prompts, asked.pairs, everything), answers)
    table = np.zeros((len(asked.patients), units.columns.shape[1]))
    # Whoever has no unit still has a row.
    member = cluster_of([*asked.patients, *units.patients])[len(asked.patients) :]
    np.add.at(table, member, units.columns)
    return table


def value_of(asked: Asked, answers: Answers, measure: str) -> float:
    """One measure of one arm."""
    return float(MEASURES[measure].statistic(_sums(asked, answers, measure).sum(0)))


def drawn_patients(count: int, seed: int) -> FloatArray:
    """How often each patient counts: once in the first row, then as DRAWS bootstrap draws have it [1 + DRAWS, P]."""
    return np.concatenate([np.ones((1, count)), clusters_drawn(range(count), DRAWS, seed)[1]])


def outcomes(sums: Sums, weights: FloatArray) -> Outcomes:
    """Every metric with the patients weighted [d, P]."""
    arms, base = (
        {name: MEASURES[name].statistic(np.tensordot(weights, table, 1)) for name, table in tables.items()}
        for tables in sums
    )
    for found, blind in ((arms, base["text_only_agreement"][:, None, None]), (base, base["text_only_agreement"])):
        lost = np.maximum(0, found["text_only_agreement"] - blind)
        found[COMBINED] = found["accuracy"] - found["question_flip_rate"] - lost
    return Outcomes(arms, base)


def estimate(draws: FloatArray, patients: int, share: bool = False) -> Estimate:
    """The mean over seeds of a number [1 + DRAWS, seeds] with its 95% interval, patients and seeds both random.

    With one seed it is that of the patients alone. `share` keeps the interval of a share between 0 and 1.
    """
    # Arms that did the same differ in the last digits of their sums.
    draws = np.round(draws, 12)
    over_patients = draws.mean(1)
    if draws.shape[1] == 1:
        return percentiles(float(over_patients[0]), over_patients[1:], patients)
    found, _ = over_patients_and_seeds(draws[0], over_patients[1:], patients)
    return Estimate(*np.clip(found, 0, 1).tolist()) if share else found


def is_share(metric: str) -> bool:
    """Whether a metric lies between 0 and 1."""
    return metric != COMBINED and MEASURES[metric].unit == "%"

"""The metrics of every arm: on all patients, and on bootstrap draws of the patients.

Everything that an ablation reports is a function of these draws, and every draw has the same patients for all arms.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from finetune.evaluation.answers import Answers, EvaluationTable, Subset, gradable
from finetune.evaluation.measures import MEASURES
from interp.questions.schema import Question
from interp.questions.tables import pair_table, prompt_table
from interp.runtime.errors import InputError
from interp.statistics import Estimate, FloatArray, cluster_of, clusters_drawn, over_patients_and_seeds, percentiles

COMBINED = "combined"
"""Name of the combined score: accuracy - question flip rate - max(0, text-only agreement - that of the base).

All three are shares of questions or wordings; that one point of each weighs the same is a convention. Text-only
agreement counts only where it rose. Below the base's value it reflects chance rather than more use of the image, and
a model with right answers must use the image anyway.
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
"""Metric -> 1 if more is better, -1 if less is; keys of `finetune.evaluation.measures.MEASURES`, and COMBINED.

first_token_accuracy detects arms that no longer answer yes or no at all, which the yes/no margin cannot show.
"""
DRAWS = 1000
"""Number of bootstrap draws of the patients."""


class HeldOutQuestions(NamedTuple):
    """The questions that every arm answers."""

    prompts: pd.DataFrame
    """[n] prompt table, one row a wording (`interp.questions.tables.prompt_table`)."""
    pairs: pd.DataFrame
    """[m] pair table of the closed questions, one row an original with one of its paraphrases."""
    patients: list[str]
    """[P] the patients in sorted order, or the images where patients are unknown."""


class PatientTotals(NamedTuple):
    """Column totals of the measures' units (`finetune.evaluation.answers.SamplingUnits`) for each patient."""

    arms: dict[str, FloatArray]
    """Measure -> [P, arms, seeds, columns]."""
    base: dict[str, FloatArray]
    """Measure -> [P, columns]."""


class WeightedMetrics(NamedTuple):
    """Every metric under d weightings of the patients, for example bootstrap draws or halves."""

    arms: dict[str, FloatArray]
    """Metric -> [d, arms, seeds]."""
    base: dict[str, FloatArray]
    """Metric -> [d]."""


def held_out_questions(questions: Sequence[Question]) -> HeldOutQuestions:
    """Build the tables of some questions.

    Raises InputError unless a closed question has a known answer and one has a paraphrase.
    """
    prompts = prompt_table(questions)
    pairs = pair_table(prompts) if len(prompts) else pd.DataFrame()
    if len(pairs):
        pairs = pairs[prompts["closed"].to_numpy()[pairs["original"]]].reset_index(drop=True)
    if not len(pairs) or not gradable(prompts).any():
        raise InputError(
            f"None of the {len(questions)} questions to evaluate is a yes/no question with a known answer and a "
            "paraphrase, so the arms could not be compared. Add such questions, or raise --limit."
        )
    return HeldOutQuestions(prompts, pairs, sorted(set(map(str, prompts["patient"]))))


def patient_totals(asked: HeldOutQuestions, base: Answers, arms: Sequence[Sequence[Answers]]) -> PatientTotals:
    """Sum by patient what every measure in METRICS needs; `arms` holds the answers of each arm, by seed."""
    names = [name for name in METRICS if name != COMBINED]
    return PatientTotals(
        {
            name: np.stack([np.stack([_totals(asked, a, name) for a in seeds], axis=1) for seeds in arms], axis=1)
            for name in names
        },
        {name: _totals(asked, base, name) for name in names},
    )


def _totals(asked: HeldOutQuestions, answers: Answers, measure: str) -> FloatArray:
    """Return the column totals [P, columns] of one measure."""
    everything = Subset("all", "all", np.ones(len(asked.prompts), bool), np.ones(len(asked.pairs), bool))
    units = MEASURES[measure].units(EvaluationTable(asked.prompts, asked.pairs, everything), answers)
    table = np.zeros((len(asked.patients), units.columns.shape[1]))
    # Naming all patients first gives a row to those without any unit too.
    member = cluster_of([*asked.patients, *units.patients])[len(asked.patients) :]
    np.add.at(table, member, units.columns)
    return table


def measure_value(asked: HeldOutQuestions, answers: Answers, measure: str) -> float:
    """Return one measure of one arm, over all questions."""
    return float(MEASURES[measure].statistic(_totals(asked, answers, measure).sum(0)))


def patient_weights(count: int, seed: int) -> FloatArray:
    """How often each patient counts [1 + DRAWS, P]: once in the first row, then as drawn in each bootstrap draw."""
    return np.concatenate([np.ones((1, count)), clusters_drawn(range(count), DRAWS, seed)[1]])


def weighted_metrics(totals: PatientTotals, weights: FloatArray) -> WeightedMetrics:
    """Compute every metric with the patients weighted by each row of `weights` [d, P]."""
    arms, base = (
        {name: MEASURES[name].statistic(np.tensordot(weights, table, 1)) for name, table in tables.items()}
        for tables in totals
    )
    base_agreement = base["text_only_agreement"]
    for found, reference in ((arms, base_agreement[:, None, None]), (base, base_agreement)):
        rise = np.maximum(0, found["text_only_agreement"] - reference)
        found[COMBINED] = found["accuracy"] - found["question_flip_rate"] - rise
    return WeightedMetrics(arms, base)


def mean_over_seeds(draws: FloatArray, patients: int, share: bool = False) -> Estimate:
    """The mean over seeds of a number [1 + DRAWS, seeds] with its 95% interval over patients and seeds.

    With one seed the interval is over the patients alone. `share` clips estimate and interval to [0, 1].
    """
    # Arms with equal results can differ in the last digits of their sums.
    draws = np.round(draws, 12)
    over_patients = draws.mean(1)
    if draws.shape[1] == 1:
        return percentiles(float(over_patients[0]), over_patients[1:], patients)
    found, _ = over_patients_and_seeds(draws[0], over_patients[1:], patients)
    return Estimate(*np.clip(found, 0, 1).tolist()) if share else found


def is_share(metric: str) -> bool:
    """Whether a metric is a share, which lies between 0 and 1."""
    return metric != COMBINED and MEASURES[metric].unit == "%"

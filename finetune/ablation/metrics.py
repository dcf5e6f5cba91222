"""The metrics of every arm: on all patients, and on bootstrap draws of the patients.

Everything that an ablation reports is a function of these draws, and every draw has the same patients for all arms.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from finetune.evaluation.answers import Answers, EvaluationTable, SamplingUnits, Subset, gradable
from finetune.evaluation.measures import MEASURES
from interp.questions.schema import Question
from interp.questions.tables import pair_table, prompt_table
from interp.runtime.errors import InputError
from interp.statistics import (
    Estimate,
    FloatArray,
    at_the_ends,
    cluster_of,
    clusters_drawn,
    over_patients_and_seeds,
    percentiles,
)

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
    """What the measures' units (`finetune.evaluation.answers.SamplingUnits`) sum up to for each patient."""

    arms: dict[str, FloatArray]
    """Measure -> [P, arms, seeds, columns]."""
    base: dict[str, FloatArray]
    """Measure -> [P, columns]."""
    sizes: dict[str, FloatArray]
    """Measure that is a share -> [P] number of the base's units, which are questions, pairs or wordings."""


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
    shares = [name for name in names if MEASURES[name].unit == "%"]
    return PatientTotals(
        {
            name: np.stack([np.stack([_totals(asked, a, name) for a in seeds], axis=1) for seeds in arms], axis=1)
            for name in names
        },
        {name: _totals(asked, base, name) for name in names},
        {name: _sizes(asked, base, name) for name in shares},
    )


def _units(asked: HeldOutQuestions, answers: Answers, measure: str) -> SamplingUnits:
    everything = Subset("all", "all", np.ones(len(asked.prompts), bool), np.ones(len(asked.pairs), bool))
    return MEASURES[measure].units(EvaluationTable(asked.prompts, asked.pairs, everything), answers)


def _patients_of(asked: HeldOutQuestions, units: SamplingUnits) -> NDArray[np.intp]:
    """The number of each unit's patient [k], in the order of `asked.patients`."""
    # Naming all patients first counts those without any unit too.
    return cluster_of([*asked.patients, *units.patients])[len(asked.patients) :]


def _totals(asked: HeldOutQuestions, answers: Answers, measure: str) -> FloatArray:
    """Return the column totals [P, columns] of one measure."""
    units = _units(asked, answers, measure)
    table = np.zeros((len(asked.patients), units.columns.shape[1]))
    np.add.at(table, _patients_of(asked, units), units.columns)
    return table


def _sizes(asked: HeldOutQuestions, answers: Answers, measure: str) -> FloatArray:
    """Return the number of units of each patient [P]."""
    patients = _patients_of(asked, _units(asked, answers, measure))
    return np.bincount(patients, minlength=len(asked.patients)).astype(float)


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
        for tables in (totals.arms, totals.base)
    )
    base_agreement = base["text_only_agreement"]
    for found, reference in ((arms, base_agreement[:, None, None]), (base, base_agreement)):
        rise = np.maximum(0, found["text_only_agreement"] - reference)
        found[COMBINED] = found["accuracy"] - found["question_flip_rate"] - rise
    return WeightedMetrics(arms, base)


def mean_over_seeds(draws: FloatArray, patients: int, sizes: FloatArray | None = None) -> Estimate:
    """The mean over seeds of a number [1 + DRAWS, seeds] with its 95% interval over patients and seeds.

    With one seed the interval is over the patients alone. A share has the `sizes` [P] of its patients: its interval
    stays between 0 and 1, and is that of `interp.statistics.at_the_ends` if it is one of these.
    """
    # Arms with equal results can differ in the last digits of their sums.
    draws = np.round(draws, 12)
    over_patients = draws.mean(1)
    if draws.shape[1] == 1:
        found = percentiles(float(over_patients[0]), over_patients[1:], patients)
    else:
        found, _ = over_patients_and_seeds(draws[0], over_patients[1:], patients)
    return found if sizes is None else Estimate(*np.clip(at_the_ends(found, sizes), 0, 1).tolist())

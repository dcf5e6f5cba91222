"""Measures of the items of two runs on the same questions, with intervals of their paired difference.

The answers of a run are a table with one row per wording of its yes/no questions, the original (0) among them. Columns:
question_key, patient_key, wording, margin [logits], blank_margin (with the grey image [logits], NaN if unknown),
correct (null where the answer is unknown) and flipped (null for originals).
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from interp.schemas.comparison import Change, Moves, Unit
from interp.schemas.record import interval_of
from interp.statistics import FloatArray, mean_of_totals, paired_statistic
from interp.storage.json_files import significant


class Units(NamedTuple):
    """The units of one measure in one run: questions, pairs or wordings."""

    columns: FloatArray
    """[k, 2] value and weight of each unit; the measure is the sum of the values over that of the weights."""
    patients: list[str]
    """[k] the patient of each unit."""


def pairs_of(answers: pd.DataFrame) -> pd.DataFrame:
    """The rows of paraphrases, with the column `shift`: the margin minus that of the original [logits]."""
    original = answers[answers["wording"] == 0].set_index("question_key")["margin"]
    rows = answers[answers["wording"] > 0]
    return rows.assign(shift=rows["margin"].to_numpy() - original.loc[rows["question_key"]].to_numpy())


def measures_of(answers: pd.DataFrame) -> dict[str, tuple[Unit, Units]]:
    """Measure -> its unit and its units in one run or arm; measures that nothing was asked for are left out."""
    pairs = pairs_of(answers)
    questions = pairs.assign(flipped=pairs["flipped"].astype(bool)).groupby("question_key", sort=False)
    questions = questions.agg(flipped=("flipped", "any"), patient_key=("patient_key", "first"))
    known = answers[answers["correct"].notna()]
    shown = answers[(answers["wording"] == 0) & answers["blank_margin"].notna()]
    stays = (shown["margin"] > 0) == (shown["blank_margin"] > 0)
    found: dict[str, tuple[Unit, Units]] = {
        "question_flip_rate": ("%", mean_units(questions["flipped"], questions["patient_key"])),
        "pairwise_flip_rate": ("%", mean_units(pairs["flipped"].astype(bool), pairs["patient_key"])),
        "margin_difference": ("logits", mean_units(pairs["shift"].abs(), pairs["patient_key"])),
        "accuracy": ("%", mean_units(known["correct"].astype(bool), known["patient_key"])),
        "grey_agreement": ("%", mean_units(stays, shown["patient_key"])),
    }
    return {name: each for name, each in found.items() if len(each[1].columns)}


def mean_units(values: "pd.Series[float]", patients: "pd.Series[str]") -> Units:
    """The units of a mean."""
    column = values.to_numpy(float)
    return Units(np.stack([column, np.ones(len(column))], axis=1), patients.tolist())


def paired_change(of: str, measure: str, unit: Unit, a: Units, b: Units, seed: int) -> Change:
    """One measure of two runs on the same patients, with the interval and the p of the paired difference."""
    found = paired_statistic(mean_of_totals, a.columns, b.columns, (a.patients, b.patients), seed, share=unit == "%")
    return Change(
        of=of,
        measure=measure,
        unit=unit,
        n=len(b.columns),
        patients=len(set(b.patients)),
        a=interval_of(found.before),
        b=interval_of(found.after),
        difference=interval_of(found.difference),
        p=None if np.isnan(found.p) else significant(found.p),
    )


def paired_changes(of: str, a: pd.DataFrame, b: pd.DataFrame, seed: int) -> list[Change]:
    """Every measure that both runs or arms have."""
    before, after = measures_of(a), measures_of(b)
    return [
        paired_change(of, name, before[name][0], before[name][1], after[name][1], seed)
        for name in before
        if name in after
    ]


def moves(of: str, a: pd.DataFrame, b: pd.DataFrame) -> Moves:
    """How many pairs flip in which of the two."""
    both = pairs_of(a).merge(pairs_of(b), on=["question_key", "wording"], suffixes=("_a", "_b"))
    first, second = both["flipped_a"].to_numpy(bool), both["flipped_b"].to_numpy(bool)
    counts = {"neither": ~first & ~second, "only_a": first & ~second, "only_b": ~first & second, "both": first & second}
    return Moves(of=of, **{name: int(rows.sum()) for name, rows in counts.items()})


def answers_of_search(items: pd.DataFrame) -> pd.DataFrame:
    """The answers of a search, from its items: the originals are rows of their own."""
    shared = ["question_key", "patient_key", "answer"]
    originals = items.drop_duplicates("question_key")[[*shared, "margin_original"]]
    originals = originals.rename(columns={"margin_original": "margin"}).assign(wording=0, flipped=None)
    wordings = items[[*shared, "wording", "margin_wording", "flipped"]].rename(columns={"margin_wording": "margin"})
    table = pd.concat([originals, wordings.astype({"flipped": object})], ignore_index=True)
    correct = pd.Series((table["margin"] > 0) == (table["answer"] == "yes")).astype("boolean")
    return table.assign(correct=correct.where(table["answer"].notna()), blank_margin=np.nan)


def answers_of_arm(items: pd.DataFrame, arm: str, when: str) -> pd.DataFrame:
    """The answers of the base (`when` before) or of an arm (`when` after), from the items of an evaluation."""
    rows = items[(items["arm"] == arm) & items["closed"]]
    names = {f"{name}_{when}": name for name in ("margin", "blank_margin", "correct", "flipped")}
    return rows[["question_key", "patient_key", "wording", *names]].rename(columns=names).reset_index(drop=True)


def recovery_units(items: pd.DataFrame) -> Units:
    """The units of the recovery by the first feature: the pairs that were patched, weighted by their margin shift."""
    patched = items[items["recovery"].notna()]
    size = (patched["margin_original"] - patched["margin_wording"]).abs().to_numpy(float)
    return Units(np.stack([patched["recovery"].to_numpy(float) * size, size], axis=1), patched["patient_key"].tolist())

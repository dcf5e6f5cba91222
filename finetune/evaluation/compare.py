"""Comparing arms: every measure in every group of questions, with intervals and a paired test."""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd

from finetune.evaluation.answers import Answers, EvaluationTable, SamplingUnits, Subset
from finetune.evaluation.measures import MEASURES, Measure
from finetune.lora.seen_texts import shown
from interp.questions.lexicon import named_finding
from interp.statistics import Estimate, cohens_h, paired_statistic, pooled_over_seeds, two_proportions_p


class ArmComparison(NamedTuple):
    """One measure in one group of questions, for one arm compared with another; its numbers are not rounded."""

    kind: str
    """Kind of the subset, one of those in `finetune.evaluation.answers.Subset`."""
    subset: str
    """Name of the subset."""
    measure: str
    """Name of the measure, a key of MEASURES."""
    reference: str
    """Name of the arm compared with, usually the base."""
    arm: str
    """Name of the arm, or of the pool of arms, that is compared."""
    n: int
    """Number of the arm's units: questions, pairs or wordings."""
    patients: int
    """Number of patients, or of images where patients are unknown."""
    before: Estimate
    """The measure of the reference."""
    after: Estimate
    """The measure of the arm."""
    difference: Estimate
    """Arm - reference, paired."""
    effect_size: float
    """Cohen's h of the two shares; NaN for measures that are not shares."""
    test: str
    """The paired test, whose inversion is the interval of the difference: permutation (over patients), or t (over
    patients and seeds)."""
    p: float
    """Two-sided p value of the paired test."""
    p_unpaired: float
    """p value of the two-proportion z test, which the published work used; NaN for measures that are not one yes or
    no a question."""


def subsets_of(prompts: pd.DataFrame, pairs: pd.DataFrame, known: Collection[str] | None) -> list[Subset]:
    """Return the group of all questions, then groups by phrasings, type, finding, register and phenomenon.

    `pairs` are the pairs of closed questions. `known` holds the hashes of the training texts: a wording is seen if its
    hash is among them, a pair is seen if both of its wordings are, and all others are unseen. There is no split by
    phrasings if `known` is None (unknown). The finding is the one that the original wording names. `register` groups
    wordings; `registers` and `phenomenon` group pairs. Empty groups are left out.
    """
    before, after = pairs["original"].to_numpy(), pairs["paraphrase"].to_numpy()
    no_prompts, no_pairs = np.zeros(len(prompts), bool), np.zeros(len(pairs), bool)
    subsets = [Subset("all", "all", ~no_prompts, ~no_pairs)]
    if known is not None:
        seen = shown(list(prompts["text"]), known)
        pair_seen = seen[before] & seen[after]
        subsets += [Subset("phrasings", "seen", seen, pair_seen), Subset("phrasings", "unseen", ~seen, ~pair_seen)]
    original = prompts[prompts["variant"] == 0].set_index("question")["text"]
    finding = original.map(named_finding).loc[prompts["question"]].to_numpy()
    for kind, values in {"type": prompts["type"].to_numpy(), "finding": finding}.items():
        for name in dict.fromkeys(values):
            rows = values == name
            subsets.append(Subset(kind, name, rows, rows[before]))
    register = prompts["register"].to_numpy(object)
    subsets += [Subset("register", name, register == name, no_pairs) for name in ("formal", "casual")]
    for kind in ("registers", "phenomenon"):
        for name in sorted(set(pairs[kind].dropna())):
            subsets.append(Subset(kind, name, no_prompts, (pairs[kind] == name).to_numpy(bool)))
    return [subset for subset in subsets if subset.prompts.any() or subset.pairs.any()]


def compare(
    prompts: pd.DataFrame,
    pairs: pd.DataFrame,
    answers: Mapping[str, Answers],
    pools: Mapping[str, Sequence[str]],
    subsets: Sequence[Subset],
    seed: int,
) -> list[ArmComparison]:
    """Compare each arm and each pool with the first arm, the base, by every measure in every subset that defines it.

    `answers` maps the name of each arm to its answers. `pools` maps a name to arms that differ only in their training
    seed. In the first subset, that of all questions, the arms other than the base are also compared with one another.
    """
    base, *others = answers
    couples = [(a, b) for i, a in enumerate(others) for b in others[i + 1 :]]
    found = []
    for subset in subsets:
        table = EvaluationTable(prompts, pairs, subset)
        for name, measure in MEASURES.items():
            if not measure.applies(subset):
                continue
            units = {arm: measure.units(table, given) for arm, given in answers.items()}
            units = {arm: each for arm, each in units.items() if len(each.columns)}
            row = partial(_comparison, subset, name, measure, seed, units)
            found += [row(base, arm) for arm in others if {base, arm} <= set(units)]
            found += [row(base, pool, members) for pool, members in pools.items() if {base, *members} <= set(units)]
            if subset is subsets[0]:
                found += [row(*couple) for couple in couples if set(couple) <= set(units)]
    return found


def _comparison(
    subset: Subset,
    name: str,
    measure: Measure,
    seed: int,
    units: Mapping[str, SamplingUnits],
    reference: str,
    arm: str,
    members: Sequence[str] = (),
) -> ArmComparison:
    """Compare one arm with the reference, or the pool of `members` if there are any."""
    before, after = units[reference], [units[member] for member in members or [arm]]
    columns, patients = [each.columns for each in after], [each.patients for each in (before, *after)]
    share, p_unpaired = measure.unit == "%", float("nan")
    if members:
        found = pooled_over_seeds(measure.statistic, before.columns, columns, patients, seed, share=share)
        test = "t"
    else:
        both = (patients[0], patients[1])
        found = paired_statistic(measure.statistic, before.columns, columns[0], both, seed, share=share)
        test = "permutation"
        if measure.binary:
            p_unpaired = two_proportions_p(before.columns[:, 0] > 0, columns[0][:, 0] > 0)
    return ArmComparison(
        kind=subset.kind,
        subset=subset.name,
        measure=name,
        reference=reference,
        arm=arm,
        n=len(columns[0]),
        patients=len(set(patients[1])),
        before=found.before,
        after=found.after,
        difference=found.difference,
        effect_size=cohens_h(found.before.value, found.after.value) if share else float("nan"),
        test=test,
        p=found.p,
        p_unpaired=p_unpaired,
    )

"""Arms side by side: each measure, in each group of questions, with intervals and a paired test."""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd

from finetune.evaluation.answers import Answers, EvaluationTable, SamplingUnits, Subset
from finetune.evaluation.measures import MEASURES, Measure
from finetune.lora.seen_texts import shown
from interp.feature.register_grid import named_finding
from interp.statistics import Estimate, cohens_h, mcnemar_p, paired_statistic, pooled_over_seeds, two_proportions_p


class Comparison(NamedTuple):
    """One measure in one group of questions, one arm against another."""

    kind: str
    """Kind of the subset."""
    subset: str
    """Name of the subset."""
    measure: str
    """A key of MEASURES."""
    reference: str
    """The arm that is compared with, mostly the base."""
    arm: str
    """The arm that is judged."""
    n: int
    """Number of units in the arm: questions, pairs or wordings."""
    patients: int
    """Number of patients, or of images where patients are unknown."""
    before: Estimate
    """Of the reference."""
    after: Estimate
    """Of the arm."""
    difference: Estimate
    """Arm - reference, paired."""
    effect_size: float
    """Cohen's h of the two shares; NaN for what is no share."""
    test: str
    """The paired test: mcnemar (exact, over questions), permutation (over patients), or t (over patients and seeds)."""
    p: float
    """Its two-sided p value."""
    p_unpaired: float
    """Of the two-proportion z test, which the published work used; NaN where a unit is no yes or no a question."""


def subsets_of(prompts: pd.DataFrame, pairs: pd.DataFrame, known: Collection[str] | None) -> list[Subset]:
    """All questions, then by phrasings, type, finding, register and phenomenon.

    `pairs` are those of closed questions. `known` are the hashes of the training texts: a wording is seen if its hash
    is among them, a pair if both of its wordings are, and everything else is unseen. With None (unknown) there is no
    split by phrasings. The finding is that of the original wording. `register` groups wordings, `registers` and
    `phenomenon` pairs.
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
) -> list[Comparison]:
    """Every measure in every subset in which it has a value: each arm and each pool against the first arm, the base.

    `answers` are the arms, `pools` are names of several arms that are the same but for the seed of their training. In
    the first subset, that of all questions, the arms other than the base are also compared with one another.
    """
    base, *others = answers
    couples = [(a, b) for i, a in enumerate(others) for b in others[i + 1 :]]
    found = []
    for subset in subsets:
        sheet = EvaluationTable(prompts, pairs, subset)
        for name, measure in MEASURES.items():
            units = {arm: measure.units(sheet, given) for arm, given in answers.items()}
            asked = {arm: each for arm, each in units.items() if len(each.columns)}
            row = partial(_row, subset, name, measure, seed)
            found += [row(asked, base, arm) for arm in others if {base, arm} <= set(asked)]
            found += [
                row(asked, base, pool, members) for pool, members in pools.items() if {base, *members} <= set(asked)
            ]
            if subset is subsets[0]:
                found += [row(asked, *couple) for couple in couples if set(couple) <= set(asked)]
    return found


def _row(
    subset: Subset,
    name: str,
    measure: Measure,
    seed: int,
    units: Mapping[str, SamplingUnits],
    reference: str,
    arm: str,
    members: Sequence[str] = (),
) -> Comparison:
    """One comparison; of a pool, if it has `members`."""
    before, after = units[reference], [units[member] for member in members or [arm]]
    columns, patients = [each.columns for each in after], [each.patients for each in (before, *after)]
    share, p_unpaired = measure.unit == "%", float("nan")
    if members:
        found = pooled_over_seeds(measure.statistic, before.columns, columns, patients, seed)
        test = "t"
        if share:
            # Student's interval does not know that a share ends at 0 and 1.
            found = found._replace(after=Estimate(*np.clip(found.after, 0, 1).tolist()))
    else:
        found = paired_statistic(measure.statistic, before.columns, columns[0], (patients[0], patients[1]), seed)
        test = "permutation"
        if measure.mcnemar:
            outcomes = before.columns[:, 0] > 0, columns[0][:, 0] > 0
            found, test = found._replace(p=mcnemar_p(*outcomes)), "mcnemar"
            p_unpaired = two_proportions_p(*outcomes)
    return Comparison(
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

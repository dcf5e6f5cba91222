"""Turning the answers of some arms into an evaluation: measures, comparisons, quadrants, detectors and verdicts."""

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pandas as pd

from finetune.evaluation.answers import Answers, EvaluationTable, gradable, says_yes, truly_yes
from finetune.evaluation.compare import compare, subsets_of
from finetune.evaluation.flip_bank import flip_banks
from finetune.evaluation.flip_detection import flip_detection
from finetune.evaluation.flips_by_count import flips_by_count
from finetune.evaluation.items import evaluation_items
from finetune.evaluation.measures import MEASURES
from finetune.evaluation.quadrants import QUADRANTS, RELIANCE, quadrants
from finetune.evaluation.reliability import reliability
from finetune.evaluation.result import Evaluation
from finetune.evaluation.verdict import ArmVerdict, verdict
from interp.measurement.clamp_spec import Clamp
from interp.questions.answers import single_answer
from interp.questions.schema import Question
from interp.questions.tables import fingerprint, pair_table, prompt_table
from interp.questions.wording_similarity import WordingSimilarity
from interp.runtime.errors import InputError
from interp.schemas import evaluation as schema
from interp.schemas.evaluation import ClampControl
from interp.schemas.record import interval_of
from interp.statistics import FloatArray, at_the_ends, clusters_drawn, percentiles
from interp.storage.json_files import json_ready, significant
from interp.storage.provenance import provenance, software

DRAWS = 2000
"""Number of bootstrap draws of the patients behind the interval of a measure."""


class QuestionTables(NamedTuple):
    """The questions of an evaluation as data frames."""

    prompts: pd.DataFrame
    """[n] prompt table, one row a wording (`interp.questions.tables.prompt_table`)."""
    pairs: pd.DataFrame
    """[m] pair table of the closed questions, one row an original with one of its paraphrases."""


class AskedArms(NamedTuple):
    """What some arms answered, the base first, and what else is known of them; every mapping goes by the arm's name."""

    model: str
    """Hub id of the base model, or name of the local folder."""
    answers: Mapping[str, Answers]
    """The answers of every arm."""
    activations: Mapping[str, FloatArray] = MappingProxyType({})
    """[n, k] activations of the SAE features that may foretell flips, if any."""
    features: Sequence[str] = ()
    """LAYER:FEATURE of these."""
    clamps: Mapping[str, Sequence[Clamp]] = MappingProxyType({})
    """The features that are clamped in the arm."""
    controls: Mapping[str, list[ClampControl]] = MappingProxyType({})
    """Other clamps in place of the arm's."""
    warnings: Mapping[str, Sequence[str]] = MappingProxyType({})
    """What a reader of the arm's numbers must know."""
    pools: Mapping[str, list[str]] = MappingProxyType({})
    """Name of a pool -> arms that differ in their training seed only."""


def question_tables(questions: Sequence[Question]) -> QuestionTables:
    """The tables of some questions. Raises InputError if there are none."""
    if not questions:
        raise InputError("There are no questions to evaluate on.")
    prompts = prompt_table(questions)
    pairs = pair_table(prompts)
    return QuestionTables(prompts, pairs[prompts["closed"].to_numpy()[pairs["original"]]].reset_index(drop=True))


def assess(
    questions: Sequence[Question],
    tables: QuestionTables,
    asked: AskedArms,
    known: Collection[str] | None,
    similarity: WordingSimilarity | None,
    tolerance: float,
    seed: int,
) -> Evaluation:
    """The evaluation of some arms, judged against the first; a single arm is measured only.

    `known` are the hashes of the training texts, None if unknown. `similarity` is that of the wordings of every pair,
    if an encoder was named. `tolerance` is a share of the questions.
    """
    (prompts, pairs), answers = tables, asked.answers
    base, *others = answers
    subsets = subsets_of(prompts, pairs, known)
    comparisons = compare(prompts, pairs, answers, asked.pools, subsets, seed)
    collapsed = {name: said for name, found in answers.items() if (said := collapse(prompts, found, name))}
    judged = {name: [name] for name in others} | dict(asked.pools)
    verdicts = {
        name: verdict(comparisons, base, name, tolerance, any(one in collapsed for one in members))
        for name, members in judged.items()
    }
    return Evaluation(
        verdicts={
            name: verdict_record(found, [said for one in judged[name] for said in asked.warnings.get(one, ())])
            for name, found in verdicts.items()
        },
        tolerance=significant(tolerance),
        arms={name: [json_ready(clamp.record()) for clamp in asked.clamps.get(name, ())] for name in answers},
        pools=dict(asked.pools),
        controls=dict(asked.controls),
        collapsed=collapsed,
        model=asked.model,
        questions=len(questions),
        patients=prompts["patient"].nunique(),
        data=fingerprint(questions),
        seed=seed,
        software=software(),
        provenance=provenance(),
        quadrants=[
            stand
            for name, found in answers.items()
            for reliance in RELIANCE
            if (stand := quadrants(prompts, pairs, answers[base], found, name, reliance, seed)) is not None
        ],
        reliability=[point for name, found in answers.items() for point in reliability(prompts, found, name, seed)],
        by_count=[row for name, found in answers.items() for row in flips_by_count(pairs, found.margin, name, seed)],
        flip_banks=flip_banks(pairs, answers, similarity),
        detection=[
            entry
            for name, found in answers.items()
            for entry in flip_detection(prompts, pairs, found, name, asked.activations.get(name), seed)
        ],
        detector_features=list(asked.features),
        quadrant_order=list(QUADRANTS),
        comparisons=[schema.Comparison.model_validate(json_ready(each)) for each in comparisons],
        measured=[
            value
            for subset in ([] if others else subsets)
            for value in measured_values(EvaluationTable(prompts, pairs, subset), answers[base], base, seed)
        ],
        item_table=evaluation_items(prompts, pairs, answers) if others else None,
    )


def measured_values(table: EvaluationTable, answers: Answers, arm: str, seed: int) -> list[schema.Measured]:
    """Every measure of one arm on one group of questions, with a bootstrap interval over patients."""
    found = []
    for name, measure in MEASURES.items():
        if not measure.applies(table.subset) or not len((units := measure.units(table, answers)).columns):
            continue
        member, drawn = clusters_drawn(units.patients, DRAWS, seed)
        totals = np.zeros((int(member.max()) + 1, units.columns.shape[1]))
        np.add.at(totals, member, units.columns)
        value, samples = float(measure.statistic(totals.sum(0))), measure.statistic(drawn @ totals)
        estimate = percentiles(value, samples, len(totals))
        if measure.unit == "%":
            estimate = at_the_ends(estimate, np.bincount(member).astype(float))
        found.append(
            schema.Measured(
                arm=arm,
                kind=table.subset.kind,
                subset=table.subset.name,
                measure=name,
                n=len(units.columns),
                patients=len(totals),
                value=interval_of(estimate),
            )
        )
    return found


def verdict_record(found: ArmVerdict, warnings: Sequence[str] = ()) -> schema.Verdict:
    """A verdict as evaluation.json holds it, with the warnings on its arms."""
    return schema.Verdict(
        label=found.label,
        sentence=found.sentence,
        axes=[
            schema.Axis(axis=each.axis, measure=each.comparison.measure, state=each.state, needed=each.needed)
            for each in found.judgements
        ],
        warnings=list(warnings),
    )


def collapse(prompts: pd.DataFrame, answers: Answers, arm: str) -> str | None:
    """A sentence on an arm that gives one answer to all wordings of closed questions, though both answers occur.

    None if the arm does not, or if there are too few wordings to tell (`interp.questions.answers.single_answer`).
    """
    rows = gradable(prompts)
    said, truth = says_yes(answers.margin[rows]), truly_yes(prompts)[rows]
    answer = single_answer(said)
    if answer is None or len(set(truth)) < 2:
        return None
    wrong = ~truth if answer == "yes" else truth
    return (
        f"Collapsed: {arm} answers {answer} to all {len(said)} wordings of closed questions, though that is wrong "
        f"for {wrong.sum()}; the absence of flips means nothing."
    )

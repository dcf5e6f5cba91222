"""Do we know beforehand which answers will flip? Detectors of flips, and what withholding doubtful answers gains.

A detector gives every question a score that rises with the doubt about its answer. Flips are foretold by the distance
to the decision boundary: |margin| or predictive entropy of one pass (arXiv 2604.08941), or how much the margin varies
over a few wordings. Wordings that a detector has read are never among those whose flip it foretells, and everything
that is fitted is fitted on other patients.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from finetune.evaluation.answers import Answers, Bools, answer_known, says_yes, truly_yes
from finetune.evaluation.logistic import fit_logistic
from interp.schemas.evaluation import Abstention, CoveragePoint, FlipDetection, FlipDetector
from interp.schemas.record import Interval, interval_of
from interp.statistics import (
    Estimate,
    FloatArray,
    auc,
    cluster_of,
    clusters_drawn,
    percentiles,
    share_interval,
    weighted_aucs,
)
from interp.storage.json_files import significant

PROBES = 2
"""Number of paraphrases that a detector over several wordings reads beside the original."""
FOLDS = 5
"""Number of groups of patients; what is applied to one is fitted on the others."""
COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)
"""Shares of the questions that an abstention table aims to answer."""
CURVE = tuple(round(0.05 * step, 2) for step in range(1, 21))
"""Coverages of the points of a risk-coverage curve."""
FEWEST_EVENTS = 10
"""Fewest flips, and fewest questions without, that a regression is fitted on and that an AUC has an interval of."""
DRAWS = 1000
"""Number of bootstrap draws of the patients behind the interval of an AUC."""

SAME_MARGIN = 4
"""Decimals [logits] to which the margins of two rows of one prompt agree."""


class Detector(NamedTuple):
    """A way to foretell flips."""

    name: str
    """What it looks at."""
    passes: int
    """Number of forward passes that it needs for a question."""
    score: FloatArray
    """[questions] rises with the doubt about the answer."""


def detection_table(prompts: pd.DataFrame, pairs: pd.DataFrame, margin: FloatArray, probes: int) -> pd.DataFrame:
    """What is known of every closed question with another wording after the first `probes` paraphrases, a row each.

    A paraphrase with the margin of a wording that is read is the same prompt, repeated or put into one form, so its
    answer is known already and is not foretold.

    `pairs` are those of closed questions and `margin` [n] is in logits. Columns: question, patient, original (row of
    `prompts`); flips (whether a paraphrase after the first `probes` gets another answer than the original); right (1 or
    0, whether the original's answer is true, NaN where unknown); size (|m| of the original); spread (standard deviation
    of the margins of the original and the first `probes` paraphrases, NaN without probes) and mean_size (|mean| of
    these margins).
    """
    ordered = pairs.sort_values("question", kind="stable")
    ordered = ordered[ordered.groupby("question")["question"].transform("size") > probes]
    before, after = (margin[ordered[name].to_numpy()] for name in ("original", "paraphrase"))
    read = ordered.groupby("question").cumcount().to_numpy() < probes
    # Rows of one prompt may differ in their last digits, as they are packed differently.
    seen, now = (np.round(each, SAME_MARGIN) for each in (before, after))
    known = set(zip(ordered["question"][read], now[read], strict=True)) | set(
        zip(ordered["question"], seen, strict=True)
    )
    asked = np.array([pair in known for pair in zip(ordered["question"], now, strict=True)], dtype=bool)
    left = ~(read | (asked if probes else read))
    kept = ordered.assign(left=left).groupby("question")["left"].transform("any").to_numpy(bool)
    ordered, before, after, read, left = ordered[kept], before[kept], after[kept], read[kept], left[kept]
    flips = ordered.assign(flips=(says_yes(before) != says_yes(after)) & left)
    table = flips.groupby("question", sort=True, as_index=False).agg(
        patient=("patient", "first"), original=("original", "first"), flips=("flips", "any")
    )
    rows = table["original"].to_numpy()
    margins = np.column_stack([margin[rows], after[read].reshape(len(table), probes)])
    originals = prompts.iloc[rows]
    right = np.where(answer_known(originals), says_yes(margin[rows]) == truly_yes(originals), np.nan)
    return table.assign(
        right=right.astype(float),
        size=np.abs(margin[rows]),
        spread=margins.std(axis=1, ddof=1) if probes else np.nan,
        mean_size=np.abs(margins.mean(axis=1)),
    )


def patient_folds(patients: Sequence[object], seed: int, count: int = FOLDS) -> NDArray[np.intp]:
    """The fold [n] of each row, 0 to count - 1: all rows of a patient are in one, and folds have as many patients."""
    member = cluster_of(patients)
    order = np.random.default_rng([seed, 23]).permutation(int(member.max(initial=-1)) + 1)
    return (np.argsort(order) % count)[member]


def cross_fitted(columns: FloatArray, event: Bools, folds: NDArray[np.intp]) -> FloatArray:
    """A score [n] for an event by a logistic regression on columns [n, k] that was fitted on the other folds.

    Columns are standardized on the other folds too. The score is the log odds without the intercept: a fold with many
    events leaves few to the others, so that its intercept alone would rank it low. NaN for a fold if the event occurs
    or fails to occur less than FEWEST_EVENTS times in the others.
    """
    found = np.full(len(columns), np.nan)
    for fold in np.unique(folds):
        own, others = folds == fold, folds != fold
        count = int(event[others].sum())
        if min(count, others.sum() - count) < FEWEST_EVENTS:
            continue
        centre, spread = columns[others].mean(0), columns[others].std(0)
        scaled = (columns - centre) / np.where(spread > 0, spread, 1)
        found[own] = scaled[own] @ fit_logistic(scaled[others], event[others])[1:]
    return found


def detectors_of(table: pd.DataFrame, probes: int, activation: FloatArray | None, seed: int) -> list[Detector]:
    """The detectors that apply to a `detection_table`; `activation` [n, k] are those of its original wordings."""
    found = [Detector("margin", 1, -table["size"].to_numpy())]
    if probes:
        found.append(Detector("dispersion", 1 + probes, table["spread"].to_numpy()))
        found.append(Detector("mean margin", 1 + probes, -table["mean_size"].to_numpy()))
    if activation is not None:
        here = activation[table["original"].to_numpy()]
        flips, folds = table["flips"].to_numpy(bool), patient_folds(table["patient"].tolist(), seed)
        both = np.column_stack([here, table["size"]])
        found.append(Detector("features", 1, cross_fitted(here, flips, folds)))
        found.append(Detector("features and margin", 1, cross_fitted(both, flips, folds)))
    # A score that is undefined for a fold cannot be compared with the others.
    return [detector for detector in found if np.isfinite(detector.score).all()]


def auc_interval(score: FloatArray, event: Bools, patients: Sequence[object], seed: int) -> Estimate:
    """AUC of a score [n] for an event, with its bootstrap interval over patients.

    With fewer than FEWEST_EVENTS events, or rows without, it has no interval: that of one event would have no width.
    """
    value = float(auc(score, event)[0])
    if np.isnan(value) or min(event.sum(), (~event).sum()) < FEWEST_EVENTS:
        return Estimate(value, np.nan, np.nan)
    member, drawn = clusters_drawn(patients, DRAWS, seed)
    return percentiles(value, weighted_aucs(score, event, drawn[:, member])[:, 0], len(set(patients)))


def events_answered(score: FloatArray, event: FloatArray, answered: FloatArray) -> FloatArray:
    """Number of events [n] among the `answered` [k] rows of lowest score; rows of equal score count equally: [k]."""
    _, group = np.unique(score, return_inverse=True)
    rows, events = (np.r_[0.0, np.cumsum(np.bincount(group, weights))] for weights in (np.ones(len(score)), event))
    return np.interp(answered, rows, events)


def risk_coverage(score: FloatArray, flips: Bools, right: FloatArray) -> list[CoveragePoint]:
    """The risk-coverage curve of a score [n] (El-Yaniv and Wiener, JMLR 2010): flips and accuracy of what is answered.

    The surest questions are answered first. Questions without a known answer (`right` is NaN) have no accuracy.
    """
    known = np.isfinite(right)
    coverage = np.array(CURVE)

    def rate(values: FloatArray, rows: Bools) -> FloatArray:
        count = coverage * rows.sum()
        with np.errstate(invalid="ignore"):
            return events_answered(score[rows], values[rows], count) / count

    flip_rate, accuracy = rate(flips.astype(float), np.ones(len(score), bool)), rate(right, known)
    return [
        CoveragePoint(coverage=share, flip_rate=significant(float(f)), accuracy=significant(float(a)))
        for share, f, a in zip(CURVE, flip_rate, accuracy, strict=True)
    ]


def area_under_risk(score: FloatArray, event: FloatArray) -> float:
    """Area under the risk-coverage curve (AURC, Geifman et al., arXiv 1805.08206).

    It is the share of events [n] among the k rows of lowest score, averaged over k from 1 to n.
    """
    count = np.arange(1.0, len(score) + 1)
    return float((events_answered(score, event, count) / count).mean())


def abstentions(table: pd.DataFrame, seed: int) -> list[Abstention]:
    """What answering only questions with |margin| of at least a threshold gains, for several aims of coverage.

    The threshold for the questions of one fold of patients is the quantile of |m| in the other folds; so coverage and
    risk are what a deployer gets who sets the threshold on other patients. The stated threshold is that of all folds.
    """
    if table["patient"].nunique() < FOLDS:
        return []
    folds = patient_folds(table["patient"].tolist(), seed)
    size, patients = table["size"].to_numpy(), table["patient"].tolist()
    flips, right = table["flips"].to_numpy(float), table["right"].to_numpy()
    known = np.isfinite(right)
    wrong = np.where(known, 1 - right, 0.0)
    found = []
    for aim in COVERAGES:
        least = np.array([_threshold(size[folds != fold], aim) for fold in range(FOLDS)])[folds]
        answered = (size >= least).astype(float)

        def share(events: FloatArray, among: FloatArray) -> Interval:
            return interval_of(share_interval(events, patients, seed, among))

        found.append(
            Abstention(
                aim=aim,
                threshold=significant(_threshold(size, aim)),
                answered=interval_of(share_interval(answered, patients, seed)),
                flip_rate=share(flips, answered),
                accuracy=share(1 - wrong, known * answered),
                flips_withheld=share(1 - answered, flips),
                errors_withheld=share(1 - answered, wrong),
            )
        )
    return found


def _threshold(size: FloatArray, coverage: float) -> float:
    """The |margin| that a share `coverage` of the questions reaches; 0 if all are to be answered."""
    return 0.0 if coverage == 1 or not len(size) else float(np.quantile(size, 1 - coverage))


def flip_detection(
    prompts: pd.DataFrame,
    pairs: pd.DataFrame,
    answers: Answers,
    arm: str,
    activation: FloatArray | None,
    seed: int,
) -> list[FlipDetection]:
    """How well flips of one arm can be foretold: from one pass, and with PROBES paraphrases read beforehand.

    `pairs` are those of closed questions; `activation` [n, k] holds activations of SAE features on the original
    wordings, or is None. Without questions of enough paraphrases an entry is left out.
    """
    found = []
    for probes in (0, PROBES):
        table = detection_table(prompts, pairs, answers.margin, probes)
        if not len(table):
            continue
        patients, flips = table["patient"].tolist(), table["flips"].to_numpy(bool)
        found.append(
            FlipDetection(
                arm=arm,
                probes=probes,
                questions=len(table),
                patients=len(set(patients)),
                flip_rate=interval_of(share_interval(flips, patients, seed)),
                detectors=[
                    _measured(each, flips, table["right"].to_numpy(), patients, seed)
                    for each in detectors_of(table, probes, activation, seed)
                ],
                abstention=[] if probes else abstentions(table, seed),
            )
        )
    return found


def _measured(
    detector: Detector, flips: Bools, right: FloatArray, patients: Sequence[object], seed: int
) -> FlipDetector:
    return FlipDetector(
        name=detector.name,
        passes=detector.passes,
        auc=interval_of(auc_interval(detector.score, flips, patients, seed)),
        risk_area=significant(area_under_risk(detector.score, flips.astype(float))),
        curve=risk_coverage(detector.score, flips, right),
    )

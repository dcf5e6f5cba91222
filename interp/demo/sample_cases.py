"""Samples the questions about each patient so that their wording alone does not predict the answer."""

import math
from typing import NamedTuple

import numpy as np

from interp.demo.radiographs import FINDINGS, GRADED, LEVELS, OPACITY_KINDS, SIDED, SIDES, VIEWS, Anatomy

ANSWERS = ("yes", "no", *SIDES, *VIEWS, *LEVELS, *OPACITY_KINDS)


class QuestionCase(NamedTuple):
    """A question about a patient before it is worded."""

    type: str
    """Question type, a key of `interp.questions.answers.ANSWER_SETS`."""
    finding: str | None
    """The finding that is asked about; None for types that name none."""
    answer: str
    """The true answer."""
    visibility: float
    """How clearly the evidence for a yes shows, in [0, 1]; NaN if the answer is not yes."""


def sample_cases(anatomy: Anatomy, patient: int, rng: np.random.Generator) -> list[QuestionCase]:
    """Draw the questions about one patient.

    The probabilities make half of the presence and abnormality questions about every finding true: the 60% of patients
    with a finding get one yes question each, and no questions go to half of them and to 75% of the normal patients.
    """
    shown = anatomy.visibility[patient]
    present = [f for i, f in enumerate(FINDINGS) if anatomy.present[patient, i]]
    absent = [f for f in FINDINGS if f not in present]
    cases = []
    if present:
        finding = str(rng.choice(present))
        cases.append(QuestionCase("presence", finding, "yes", shown[FINDINGS.index(finding)]))
    if rng.random() < (0.5 if present else 0.75):
        cases.append(QuestionCase("presence", str(rng.choice(absent)), "no", math.nan))
    if rng.random() < (0.5 if present else 0.75):
        plainest = max((shown[FINDINGS.index(f)] for f in present), default=math.nan)
        cases.append(QuestionCase("abnormality", None, "yes" if present else "no", plainest))
    if rng.random() < 0.3:
        cases.append(QuestionCase("view", None, VIEWS[anatomy.view[patient]], math.nan))
    for finding in present:
        i = FINDINGS.index(finding)
        if finding == "opacity" and rng.random() < 0.5:
            cases.append(QuestionCase("type", finding, OPACITY_KINDS[anatomy.kind[patient]], math.nan))
        if finding in GRADED and rng.random() < 0.4:
            cases.append(QuestionCase("level", finding, LEVELS[anatomy.level[patient, i]], math.nan))
        if finding in SIDED and rng.random() < 0.5:
            cases.append(QuestionCase("location", finding, SIDES[anatomy.side[patient, i]], math.nan))
    return cases or [QuestionCase("view", None, VIEWS[anatomy.view[patient]], math.nan)]

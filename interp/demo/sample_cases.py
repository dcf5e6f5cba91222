"""Which questions are asked about which patient, so that the wording alone tells nothing of the answer."""

import math
from typing import NamedTuple

import numpy as np

from interp.demo.radiographs import FINDINGS, GRADED, KINDS, LEVELS, SIDED, SIDES, VIEWS, Anatomy

ANSWERS = ("yes", "no", *SIDES, *VIEWS, *LEVELS, *KINDS)


class Case(NamedTuple):
    """A question before it is worded."""

    type: str
    """Question type, a key of `interp.questions.schema.ANSWER_SETS`."""
    finding: str | None
    """The finding asked about, None where the type has none."""
    answer: str
    """The true answer."""
    visibility: float
    """How plainly the evidence for a yes shows, in [0, 1]; NaN where the answer is not yes."""


def cases_of(anatomy: Anatomy, patient: int, rng: np.random.Generator) -> list[Case]:
    """Draw the questions asked about one patient.

    Chances are such that presence and abnormality are answered yes half of the time for every finding: 60% of the
    patients show something (one yes each), so no-questions fall on 50% of them and on 75% of the normal ones.
    """
    shown = anatomy.visibility[patient]
    present = [f for i, f in enumerate(FINDINGS) if anatomy.present[patient, i]]
    absent = [f for f in FINDINGS if f not in present]
    cases = []
    if present:
        finding = str(rng.choice(present))
        cases.append(Case("presence", finding, "yes", shown[FINDINGS.index(finding)]))
    if rng.random() < (0.5 if present else 0.75):
        cases.append(Case("presence", str(rng.choice(absent)), "no", math.nan))
    if rng.random() < (0.5 if present else 0.75):
        plainest = max((shown[FINDINGS.index(f)] for f in present), default=math.nan)
        cases.append(Case("abnormality", None, "yes" if present else "no", plainest))
    if rng.random() < 0.3:
        cases.append(Case("view", None, VIEWS[anatomy.view[patient]], math.nan))
    for finding in present:
        i = FINDINGS.index(finding)
        if finding == "opacity" and rng.random() < 0.5:
            cases.append(Case("type", finding, KINDS[anatomy.kind[patient]], math.nan))
        if finding in GRADED and rng.random() < 0.4:
            cases.append(Case("level", finding, LEVELS[anatomy.level[patient, i]], math.nan))
        if finding in SIDED and rng.random() < 0.5:
            cases.append(Case("location", finding, SIDES[anatomy.side[patient, i]], math.nan))
    return cases or [Case("view", None, VIEWS[anatomy.view[patient]], math.nan)]

"""Notes on a study: why a number is missing, one sentence each."""

from collections.abc import Sequence

from interp.profile.verdict import LEAST_PATIENTS
from interp.questions.lexicon import named_finding
from interp.schemas.rules import LEAST_FLIPS
from interp.schemas.study import Study
from interp.statistics import MIN_PATIENTS


def missing_numbers(
    study: Study, wordings: Sequence[str], bank_margin: float, traced: Sequence[str] | None = None
) -> list[str]:
    """A sentence on every number of the study that is undefined.

    `wordings` are the original wordings; `bank_margin` [logits] is the threshold of the flip bank. `traced` are the
    patients of the banked flips in which the feature changes, one a flip; None if its edges were not asked for.
    """
    return [
        *_missing_tests(study, bank_margin),
        *([] if traced is None else _missing_edges(study, traced)),
        *_missing_groups(study),
        *_missing_grid(study, wordings),
    ]


def _missing_tests(study: Study, bank_margin: float) -> list[str]:
    found = []
    if study.density == 0:
        found.append("The feature is active on none of the wordings, so its delta is always zero and its patch empty.")
    elif study.tracking.r.value is None:
        found.append("The feature's delta or the margin shift never varies, so r is undefined.")
    if not study.tracking.flips:
        found.append("No pair flips, so there is no flip AUC, no causal test and no recovery by group.")
    elif study.test is None:
        found.append(
            f"None of the {study.tracking.flips} flips has both margins at least {bank_margin} logits from zero, so "
            "there is no causal test and no recovery by group."
        )
    elif study.test.matched is None:
        found.append("All other features that move discriminate flips, so there are no matched controls.")
    if study.test is not None and study.place is None:
        found.append(
            f"{study.test.n} banked flips are too few to say what the feature is: at least {LEAST_FLIPS} of "
            f"{LEAST_PATIENTS} patients are needed."
        )
    if study.test is not None and study.test.unflipped_changed is None:
        found.append("Every pair flips, so the patch cannot be tried on pairs that do not.")
    return found


def _missing_edges(study: Study, traced: Sequence[str]) -> list[str]:
    flips, patients = study.test.n if study.test else 0, len(set(traced))
    if not traced:
        said = f"The feature changes in none of the {flips} banked flips" if flips else "No flip is banked"
        return [f"{said}, so there is no change to trace to other features or to tokens."]
    if len(traced) < LEAST_FLIPS or patients < LEAST_PATIENTS:
        whose = f"{patients} patient{'s' if patients > 1 else ''}"
        return [
            f"The feature changes in {len(traced)} of the {flips} banked flips, of {whose}: too few to say from which "
            "features and tokens its change comes."
        ]
    return []


def _missing_groups(study: Study) -> list[str]:
    found = []
    untagged = {g.grouping for g in study.groups if g.group in ("other", "untagged")}
    tagged = {g.grouping for g in study.groups if g.group not in ("other", "untagged")}
    for grouping in sorted(untagged - tagged):
        reason = "names a finding of the lexicon" if grouping == "finding" else f"has {grouping} tagged"
        found.append(f"None of the banked flips {reason}, so recovery by {grouping} has a single group.")
    if any(g.patients < MIN_PATIENTS for g in study.groups):
        found.append(f"Groups of fewer than {MIN_PATIENTS} patients have no interval.")
    return found


def _missing_grid(study: Study, wordings: Sequence[str]) -> list[str]:
    found = []
    if all(named_finding(text) == "other" for text in wordings):
        found.append("No question names a finding of the lexicon, so the grid asks for common ones.")
    if study.grid.spearman.value is None:
        found.append("The feature's activation is constant on the register grid, so its rank correlation is undefined.")
    if not study.grid.controlled_pairs:
        found.append("No wordings of different grid levels end alike, so there are no token-controlled pairs.")
    return found

"""A grounding study laid out: what filling the lesion does, and every score of every map beside its controls."""

from interp.schemas.grounding import Grounding, GroundingSummary
from interp.views.numbers import NONE, PERCENT, SCORES, interval, number, spoken
from interp.views.report import tables
from interp.views.report.tables import Cell, Table, columns

OF_MODEL = ("roi_margin", "roi_flip")
"""Scores that judge no map but the model."""


def grounding_says(found: Grounding) -> list[str]:
    """What filling the lesion itself does, a sentence an arm: what the maps have to be measured by."""
    at = {(entry.score, entry.arm): entry for entry in found.summary if entry.score in OF_MODEL}
    said = []
    for arm in found.arms:
        margin, flip = (at.get((score, arm)) for score in OF_MODEL)
        if margin is not None:
            turned = ""
            if flip is not None:
                turned = f" and turns {number(flip.value.value, PERCENT)}% of the answers"
                turned += f" (elsewhere {number(flip.control.value, PERCENT)}%)"
            said.append(
                f"{arm}: filling the lesion takes {number(margin.value.value)} logits from the answer{turned}; filling "
                f"the same shape elsewhere takes {number(margin.control.value)}, net {interval(margin.net, sign=True)}."
            )
    return said


def grounding_table(found: Grounding) -> Table:
    """Every score of every map against every control, an arm beside the other."""
    entries = {(e.score, e.against, e.map, e.arm): e for e in found.summary}
    changes = {(e.score, e.against, e.map): e for e in found.differences}
    both = len(found.arms) > 1
    rows = []
    order = list(SCORES)
    for key in sorted(
        dict.fromkeys(key[:3] for key in entries),
        key=lambda key: order.index(key[0]) if key[0] in order else len(order),
    ):
        score, against, name = key
        of_arm = [entries.get((*key, arm)) for arm in found.arms]
        known = [entry for entry in of_arm if entry is not None]
        row = [tables.text(spoken(score)), tables.text(name), tables.text(against)]
        row.append(tables.count(max(entry.n for entry in known)))
        for entry in of_arm:
            row += _arm_cells(entry)
        if both:
            change = changes.get(key)
            row += [tables.estimate(change.difference, sign=True), tables.p(change.p)] if change else 2 * [_none()]
        else:
            row.append(tables.p(known[0].p))
        rows.append(row)
    heads = [f"{arm}{part}" for arm in found.arms for part in ("", ", control", ", net")]
    return Table(
        f"Every score beside its control, {found.questions:,} questions of {found.patients:,} patients",
        columns(["score", "map", "against"], ["n", *heads, *(["adapter − base", "p"] if both else ["p"])]),
        rows,
        "Net: score less control. Brackets: 95% interval over patients. p: two-sided, signs flipped by patient, not "
        "adjusted for the number of rows. A map on the lesion does not show that the answer rests on it. "
        + "; ".join(
            f"{spoken(score)}: {SCORES[score]}" for score in order if any(e.score == score for e in found.summary)
        )
        + ".",
    )


def _arm_cells(entry: GroundingSummary | None) -> list[Cell]:
    if entry is None:
        return 3 * [_none()]
    return [
        tables.value(entry.value.value),
        tables.value(entry.control.value),
        tables.estimate(entry.net, sign=True),
    ]


def _none() -> Cell:
    return tables.text(NONE)

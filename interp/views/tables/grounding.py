"""The table of a grounding study (grounding.json), and what filling the lesion does."""

from collections.abc import Callable, Collection
from typing import NamedTuple

from interp.schemas.grounding import Grounding, GroundingDifference, GroundingSummary
from interp.views.labels import MAP_SCORE_MEANINGS
from interp.views.numbers import PERCENT, interval, number, spoken
from interp.views.overview import Facts, Overview
from interp.views.table import Cell, Column, Table, blank, count, estimate, p_cell, tabulate, value, words

LESION_SCORES = ("roi_margin", "roi_flip")
"""Scores that judge the model and not a map: the margin lost, and whether the answer flips, without the lesion."""


BRIEF = (
    ("coverage", "random"),
    ("rank_agreement", "other image"),
    ("deletion_margin", "random order"),
    ("paraphrase_agreement", "other image"),
    ("roi_margin", "random region"),
    ("roi_flip", "random region"),
)
"""Scores and controls that notebooks show: on the lesion, faithful, alike for a paraphrase; and the lesion itself."""


def grounding_overview(found: Grounding) -> Overview:
    """The study as the terminal and notebooks show it."""
    return Overview(
        f"{found.model}: where {' and '.join(found.arms)} look",
        lesion_sentences(found),
        grounding_facts(found),
        [grounding_table(found)],
    )


def grounding_brief(found: Grounding) -> Overview:
    """The study as a notebook shows it: one control of each kind of score, and the lesion itself."""
    full = grounding_overview(found)
    return Overview(full.heading, full.conclusion, full.facts, [grounding_table(found, BRIEF)])


def grounding_facts(found: Grounding) -> Facts:
    """What was studied, and how often the answers are correct."""
    known = [("Data", f"{found.questions:,} questions of {found.patients:,} patients")]
    known += [(f"Accuracy, {arm}", f"{number(share, PERCENT)}%") for arm, share in found.right.items()]
    known += [("Feature", found.feature)] if found.feature else []
    fill = found.settings.get("maps", {}).get("fill")
    return [*known, ("Removed parts are filled with", str(fill))] if fill else known


def lesion_sentences(found: Grounding) -> list[str]:
    """What filling the lesion itself does, one sentence for each arm: the measure for the maps."""
    at = {(entry.score, entry.arm): entry for entry in found.summary if entry.score in LESION_SCORES}
    said = []
    for arm in found.arms:
        margin, flip = (at.get((score, arm)) for score in LESION_SCORES)
        if margin is not None:
            flipped = ""
            if flip is not None:
                flipped = f" and flips {number(flip.value.value, PERCENT)}% of the answers"
                flipped += f" (elsewhere {number(flip.control.value, PERCENT)}%)"
            said.append(
                f"{arm}: filling the lesion lowers the margin of the answer by {number(margin.value.value)} logits"
                f"{flipped}; filling the same shape elsewhere lowers it by {number(margin.control.value)}, net "
                f"{interval(margin.net, sign=True)}."
            )
    return said


class _Row(NamedTuple):
    """One score of one map against one control."""

    score: str
    against: str
    map: str
    of_arm: dict[str, GroundingSummary]
    change: GroundingDifference | None


def grounding_table(found: Grounding, only: Collection[tuple[str, str]] | None = None) -> Table:
    """Every score of every map beside each of its controls, the arms side by side; or `only` some (score, control)."""
    keys = dict.fromkeys(
        (e.score, e.against, e.map) for e in found.summary if only is None or (e.score, e.against) in only
    )
    order = list(MAP_SCORE_MEANINGS)
    entries = {(e.score, e.against, e.map, e.arm): e for e in found.summary}
    changes = {(e.score, e.against, e.map): e for e in found.differences}
    rows = [
        _Row(*key, {arm: e for arm in found.arms if (e := entries.get((*key, arm)))}, changes.get(key))
        for key in sorted(keys, key=lambda key: order.index(key[0]) if key[0] in order else len(order))
    ]
    columns = [
        words("score", lambda row: spoken(row.score)),
        words("map", lambda row: row.map),
        words("against", lambda row: row.against),
        Column("n", lambda row: count(max(entry.n for entry in row.of_arm.values()))),
    ]
    for arm in found.arms:
        columns += [
            Column(arm, _of(arm, lambda entry: value(entry.value.value)), narrow=False),
            Column(f"{arm}, control", _of(arm, lambda entry: value(entry.control.value)), narrow=False),
            Column(f"{arm}, net", _of(arm, lambda entry: estimate(entry.net, sign=True))),
        ]
    if len(found.arms) > 1:
        # With two arms the difference is tested; grounding.json has the p value of each arm's own net.
        columns += [
            Column("adapter − base", _change(lambda change: estimate(change.difference, sign=True))),
            Column("p", _change(lambda change: p_cell(change.p))),
        ]
    else:
        columns.append(Column("p", _of(found.arms[0], lambda entry: p_cell(entry.p))))
    shown = {row.score for row in rows}
    meanings = "; ".join(f"{spoken(name)}: {said}" for name, said in MAP_SCORE_MEANINGS.items() if name in shown)
    return tabulate(
        f"{'Every score' if only is None else 'A score'} beside its control, {found.questions:,} questions of "
        f"{found.patients:,} patients",
        columns,
        rows,
        "Net: score minus control. Brackets: 95% intervals over patients. p: two-sided, signs flipped by patient, not "
        "adjusted for the number of rows. A map that lies on the lesion does not show that the answer relies on the "
        f"lesion. {meanings}.",
    )


def _of(arm: str, cell: Callable[[GroundingSummary], Cell]) -> Callable[[_Row], Cell]:
    return lambda row: cell(row.of_arm[arm]) if arm in row.of_arm else blank()


def _change(cell: Callable[[GroundingDifference], Cell]) -> Callable[[_Row], Cell]:
    return lambda row: cell(row.change) if row.change else blank()

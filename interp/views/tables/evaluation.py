"""The tables of an evaluation (evaluation.json)."""

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from interp.schemas.evaluation import Comparison, Evaluation, QuadrantMeans, Quadrants
from interp.views.labels import (
    GROUP_NAMES,
    IN_DETAIL,
    QUADRANT_MEANINGS,
    RELIANCE_MEANINGS,
    label,
    scale_of,
)
from interp.views.numbers import PERCENT, number, sentence, spoken
from interp.views.overview import Overview
from interp.views.table import Cell, Column, Table, blank, count, estimate, p_cell, tabulate, value, words
from interp.views.tables.definitions import by_count_table, definitions_table, flip_banks_table
from interp.views.tables.detection import abstention_table, detection_table
from interp.views.tables.measured import GROUPED, MEANINGS, measured_groups_table, measured_sentences, measured_table

BRIEF_RELIANCE = ("grey", "any")
"""Kinds of reliance in the terminal and in notebooks."""
CLAMP_PLACES = {"final": "the final token", "all": "all text tokens"}
"""Positions at which a clamp holds, in words."""


def evaluation_overview(found: Evaluation, full: bool = False) -> Overview:
    """The evaluation as notebooks show it, or with every table if `full`, as the terminal does with --full."""
    alone = not found.shown
    measured = [entry.measure for entry in found.comparisons] + [entry.measure for entry in found.measured]
    shown = None if full else set(measured).difference(IN_DETAIL)
    measures = measured_table(found, shown) if alone else measures_table(found, measures=shown)
    groups = measured_groups_table(found) if alone else groups_table(found)
    tables = [measures, groups, quadrants_table(found, tuple(RELIANCE_MEANINGS) if full else BRIEF_RELIANCE)]
    if full:
        tables += [
            certainty_table(found),
            definitions_table(found),
            by_count_table(found),
            flip_banks_table(found),
            detection_table(found),
            abstention_table(found),
        ]
    return Overview(
        f"{found.model}: {found.questions:,} questions of {found.patients:,} patients{_clamps(found)}",
        [*measured_sentences(found), *found.sentences] if alone else found.sentences,
        tables=[table for table in tables if table.rows],
        notes=[f"{arm}: {said}" for arm in found.shown if (said := clamp_controls(found, arm))],
    )


def clamp_controls(found: Evaluation, arm: str) -> str:
    """What clamps of other features did, in one sentence; empty for an arm without clamps."""
    controls = found.controls.get(arm)
    if not controls:
        return ""
    ranges = []
    for name, shown in (("question_flip_rate", "question flip rates"), ("accuracy", "accuracies")):
        values = [each for control in controls if (each := getattr(control, name)) is not None]
        if values:
            ranges.append(f"{shown} from {number(min(values), PERCENT)}% to {number(max(values), PERCENT)}%")
    return f"Control: {len(controls)} clamps of other features of similar activity gave {' and '.join(ranges)}."


def measures_table(
    found: Evaluation, shown: Sequence[str] | None = None, measures: Collection[str] | None = None
) -> Table:
    """The `measures` over all questions, of the base and the arms `shown`; by default all of both."""
    arms = list(found.shown if shown is None else shown)
    entries = []
    for measure in dict.fromkeys(c.measure for c in found.comparisons if c.kind == "all"):
        if measures is not None and measure not in measures:
            continue
        of_arm = _of_arms(found, arms, measure, "all", "all")
        if of_arm:
            entries.append(_Row(measure, of_arm))
    columns = [
        words("measure", lambda row: label(row.measure), lambda row: MEANINGS.get(row.measure, "")),
        Column("n", lambda row: count(row.first.n)),
        Column(found.base, lambda row: estimate(row.first.before, scale_of(row.measure))),
    ]
    for arm in arms:
        columns += [
            Column(arm, _of(arm, lambda c, scale: estimate(c.after, scale))),
            Column("change", _of(arm, lambda c, scale: estimate(c.difference, scale, sign=True))),
            Column("p", _of(arm, lambda c, scale: p_cell(c.p)), meaning="paired, two-sided, against the base"),
        ]
    return tabulate(
        f"{found.base} and {', '.join(arms)}: {found.questions:,} questions of {found.patients:,} patients",
        columns,
        entries,
        "Brackets: 95% intervals, bootstrap over patients.",
    )


class _Row(NamedTuple):
    """One measure of the arms that have it."""

    measure: str
    of_arm: dict[str, Comparison]

    @property
    def first(self) -> Comparison:
        """Any comparison with the base: all have the same number of questions and the same base."""
        return next(iter(self.of_arm.values()))


def _of(arm: str, cell: Callable[[Comparison, Any], Cell]) -> Callable[[_Row], Cell]:
    return lambda row: cell(row.of_arm[arm], scale_of(row.measure)) if arm in row.of_arm else blank()


def _of_arms(found: Evaluation, arms: Sequence[str], measure: str, kind: str, subset: str) -> dict[str, Comparison]:
    at = found.against_base()
    return {arm: c for arm in arms if (c := at.get((arm, measure, kind, subset)))}


class _Group(NamedTuple):
    """One group of questions: its kind, its name, and measure -> arm -> comparison with the base."""

    kind: str
    name: str
    of_measure: dict[str, dict[str, Comparison]]

    @property
    def n(self) -> int:
        """Number of questions, or of wordings where only those are counted."""
        return next(c.n for of_arm in self.of_measure.values() for c in of_arm.values())


def groups_table(found: Evaluation) -> Table:
    """Flips, accuracy and text-only agreement in each group of questions, of the base and the arms."""
    groups = []
    for kind, subset in dict.fromkeys((c.kind, c.subset) for c in found.comparisons if c.kind != "all"):
        of_measure = {measure: _of_arms(found, found.shown, measure, kind, subset) for measure in GROUPED}
        if any(of_measure.values()):
            groups.append(_Group(kind, subset, of_measure))

    def base(measure: str) -> Callable[[_Group], Cell]:
        def cell(group: _Group) -> Cell:
            known = list(group.of_measure[measure].values())
            return value(known[0].before.value, scale_of(measure)) if known else blank()

        return cell

    def after(measure: str, arm: str) -> Callable[[_Group], Cell]:
        def cell(group: _Group) -> Cell:
            c = group.of_measure[measure].get(arm)
            return value(c.after.value, scale_of(measure)) if c else blank()

        return cell

    columns = [
        words("group", lambda group: group.name),
        words("by", lambda group: GROUP_NAMES.get(group.kind, spoken(group.kind))),
        Column("n", lambda group: count(group.n)),
    ]
    for measure in GROUPED:
        name = label(measure).removesuffix(" [%]")
        columns.append(Column(f"{name}, {found.base}", base(measure)))
        columns += [Column(f"{name}, {arm}", after(measure, arm)) for arm in found.shown]
    return tabulate(
        "By group of questions [%]",
        columns,
        groups,
        "Without intervals; the JSON (--out, --json) has them. Small groups say little.",
    )


class _Stand(NamedTuple):
    """Where the questions of one arm or pool stand by one kind of reliance: an entry for each arm of the pool."""

    arm: str
    reliance: str
    members: list[Quadrants]


def _stands(found: Evaluation) -> list[_Stand]:
    """Where the base and the arms that are shown stand, by every kind of reliance."""
    stands = []
    for arm in (found.base, *found.shown):
        names = found.pools.get(arm, [arm])
        for reliance in dict.fromkeys(each.reliance for each in found.quadrants):
            members = [each for each in found.quadrants if each.arm in names and each.reliance == reliance]
            if members:
                stands.append(_Stand(arm, reliance, members))
    return stands


def quadrants_table(found: Evaluation, reliances: Sequence[str] = tuple(RELIANCE_MEANINGS)) -> Table:
    """The share of each arm's questions in each quadrant, by some kinds of reliance; for a pool, the mean over it."""
    stands = [stand for stand in _stands(found) if stand.reliance in reliances]

    def share(quadrant: str) -> Callable[[_Stand], Cell]:
        def cell(stand: _Stand) -> Cell:
            shares = [each.shares[quadrant] for each in stand.members]
            if len(shares) == 1:
                return estimate(shares[0], PERCENT)
            return value(float(np.mean([each.value or 0.0 for each in shares])), PERCENT)

        return cell

    def moved(stand: _Stand) -> Cell:
        return blank() if stand.arm == found.base else value(_moved_share(stand.members), PERCENT)

    def p(stand: _Stand) -> Cell:
        return blank() if stand.arm == found.base or len(stand.members) > 1 else p_cell(stand.members[0].p)

    meanings = "; ".join(
        f"{name}: {QUADRANT_MEANINGS[name]}" for name in found.quadrant_order if name in QUADRANT_MEANINGS
    )
    return tabulate(
        "Quadrants [% of the yes/no questions]",
        [
            words("arm", lambda stand: stand.arm),
            words("by", lambda stand: stand.reliance),
            *(Column(name, share(name)) for name in found.quadrant_order),
            Column("moved", moved, meaning="questions in another quadrant than with the base"),
            Column("p", p, meaning="Stuart–Maxwell test of the shares against the base"),
        ],
        stands,
        f"{sentence(meanings)} An answer relies on the image if {_reliance_meanings(stands)}. A blank image gives the "
        "correct answer by chance in about half of the questions, so that by grey alone a perfect model has many "
        "dangerous ones. Brackets: 95% intervals over patients.",
    )


def _reliance_meanings(stands: Sequence[_Stand]) -> str:
    kinds = dict.fromkeys(stand.reliance for stand in stands)
    return ", or ".join(f"{RELIANCE_MEANINGS[kind]} ({kind})" for kind in kinds if kind in RELIANCE_MEANINGS)


class _Inside(NamedTuple):
    """The questions of one arm in one quadrant."""

    arm: str
    reliance: str
    quadrant: str
    means: QuadrantMeans


def certainty_table(found: Evaluation) -> Table:
    """How right and how sure the base and every arm are in each quadrant; without rows for older files."""
    order = found.quadrant_order
    entries = [
        _Inside(stand.arm, stand.reliance, name, stand.inside[name])
        for stand in found.quadrants
        for name in order
        if name in stand.inside
    ]
    return tabulate(
        "Accuracy and certainty by quadrant, original wordings",
        [
            words("arm", lambda row: row.arm),
            words("by", lambda row: row.reliance),
            words("quadrant", lambda row: row.quadrant),
            Column("questions", lambda row: count(row.means.questions)),
            Column("accuracy [%]", lambda row: estimate(row.means.accuracy, PERCENT)),
            Column("|margin| [logits]", lambda row: estimate(row.means.margin)),
            Column("entropy [bits]", lambda row: estimate(row.means.entropy)),
        ],
        entries,
        "Entropy is that of the answer among yes and no: 1 at even odds, 0 for a sure answer. Dangerous answers that "
        "are right and sure cannot be found by their confidence. Brackets: 95% intervals over patients.",
    )


def _moved_share(members: Sequence[Quadrants]) -> float:
    """The share of questions in another quadrant than with the base, mean over arms."""
    return float(np.mean([1 - np.trace(each.moves) / max(1, each.questions) for each in members]))


def moves_tables(found: Evaluation) -> list[Table]:
    """For each arm and kind of reliance, how many questions moved from each quadrant to each."""
    order = found.quadrant_order

    def moves_table(stand: Quadrants) -> Table:
        def to(place: int) -> Callable[[tuple[str, list[int]]], Cell]:
            return lambda row: count(row[1][place])

        return tabulate(
            f"Where the questions went, {stand.arm}, by {stand.reliance}",
            [
                words("from", lambda row: f"{row[0]} in {found.base}"),
                *(Column(f"{name} in {stand.arm}", to(place)) for place, name in enumerate(order)),
                Column("all", lambda row: count(sum(row[1]))),
            ],
            zip(order, stand.moves, strict=True),
        )

    return [moves_table(stand) for stand in found.quadrants if stand.arm != found.base]


def _clamps(found: Evaluation) -> str:
    """The clamped features of the arms, as they follow the heading."""
    said = ""
    for clamps in found.arms.values():
        if clamps:
            held = ", ".join(f"{clamp['layer']}:{clamp['feature']}={clamp['value']:g}" for clamp in clamps)
            said += f"; {held} at {CLAMP_PLACES.get(clamps[0]['where'], clamps[0]['where'])}"
    return said

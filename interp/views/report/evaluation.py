"""Adapters laid out: verdicts, before and after, groups of questions, quadrants, and what was trained."""

import re
from typing import NamedTuple

import numpy as np

from interp.schemas.adapter import AdapterRecord
from interp.schemas.evaluation import Axis, Comparison, Evaluation
from interp.views.numbers import (
    GROUPS,
    MEANINGS,
    NONE,
    PERCENT,
    QUADRANTS,
    interval,
    label,
    layers,
    number,
    scale_of,
    sentence,
    spoken,
)
from interp.views.report import tables
from interp.views.report.tables import Cell, Column, Table, columns

GROUPED = ("question_flip_rate", "accuracy", "text_only_agreement")
"""The measures that the table of groups shows."""
WORDS = {"better": "better", "kept": "kept", "lost": "lost", "unclear": "unclear"}


class Tile(NamedTuple):
    """One measure that decided a verdict."""

    measure: str
    """In words."""
    before: str
    """Of the base."""
    after: str
    """Of the arm."""
    difference: str
    """With its interval."""
    state: str
    """better, kept, lost or unclear."""


class Judged(NamedTuple):
    """The verdict on one arm."""

    arm: str
    """Name of the arm or pool."""
    label: str
    """In a word or four."""
    sentence: str
    """What it rests on, without the label."""
    tiles: list[Tile]
    """The measures that decided."""
    controls: str
    """What clamps of other features did; empty for an adapter."""


def judged(found: Evaluation) -> list[Judged]:
    """The verdict on every arm that is shown."""
    at = found.against_base()
    said = []
    for arm in found.shown:
        verdict = found.verdicts[arm]
        tiles = [_tile(axis, c) for axis in verdict.axes if (c := at.get((arm, axis.measure, "all", "all")))]
        # The label is a heading of its own.
        grounds = re.sub(f"^{re.escape(verdict.label)}:", "", verdict.sentence, flags=re.IGNORECASE)
        said.append(Judged(arm, verdict.label, sentence(grounds), tiles, _controls(found, arm)))
    return said


def _tile(axis: Axis, found: Comparison) -> Tile:
    scale = scale_of(axis.measure)
    before, after = (number(each.value, scale) for each in (found.before, found.after))
    change = interval(found.difference, scale, sign=True)
    return Tile(label(axis.measure), before, after, change, axis.state)


def _controls(found: Evaluation, arm: str) -> str:
    controls = found.controls.get(arm)
    if not controls:
        return ""
    flips, right = (
        sorted(value for c in controls if (value := getattr(c, name)) is not None)
        for name in ("question_flip_rate", "accuracy")
    )
    ranges = [
        f"{what} of {number(values[0], PERCENT)} to {number(values[-1], PERCENT)}%"
        for what, values in (("question flips", flips), ("accuracy", right))
        if values
    ]
    return f"Control: {len(controls)} clamps of other features as active gave {' and '.join(ranges)}."


def before_after(found: Evaluation) -> Table:
    """Every measure over all questions, base and arms."""
    at = found.against_base()
    measures = dict.fromkeys(c.measure for c in found.comparisons if c.kind == "all")
    rows = []
    for measure in measures:
        of_arm = {arm: c for arm in found.shown if (c := at.get((arm, measure, "all", "all")))}
        if not of_arm or measure in QUADRANTS:
            continue
        scale, first = scale_of(measure), next(iter(of_arm.values()))
        cells = [tables.text(label(measure), MEANINGS.get(measure, "")), tables.count(first.n)]
        cells.append(tables.estimate(first.before, scale))
        for arm in found.shown:
            c = of_arm.get(arm)
            cells += (
                [tables.estimate(c.after, scale), tables.estimate(c.difference, scale, sign=True), tables.p(c.p)]
                if c
                else 3 * [tables.text(NONE)]
            )
        rows.append(cells)
    heads = [head for arm in found.shown for head in (arm, "change", "p")]
    return Table(
        f"{found.base} and {', '.join(found.shown)}: {found.questions:,} questions of {found.patients:,} patients",
        columns(["measure"], ["n", found.base, *heads]),
        rows,
        "Brackets: 95% interval over patients. p: paired, two-sided, against the base.",
    )


def groups_table(found: Evaluation) -> Table:
    """Flips, accuracy and text-only agreement of each group of questions, base and arms."""
    at = found.against_base()
    groups = dict.fromkeys((c.kind, c.subset) for c in found.comparisons if c.kind != "all")
    rows = []
    for kind, subset in groups:
        cells: list[Cell] = []
        counts = []
        for measure in GROUPED:
            of_arm = [at.get((arm, measure, kind, subset)) for arm in found.shown]
            known = [c for c in of_arm if c]
            counts += [c.n for c in known[:1]]
            scale = scale_of(measure)
            cells.append(tables.value(known[0].before.value, scale) if known else tables.text(NONE))
            cells += [tables.value(c.after.value, scale) if c else tables.text(NONE) for c in of_arm]
        if counts:
            rows.append(
                [tables.text(subset), tables.text(GROUPS.get(kind, spoken(kind))), tables.count(counts[0]), *cells]
            )
    heads = [
        f"{label(measure).removesuffix(' [%]')}, {arm}" for measure in GROUPED for arm in (found.base, *found.shown)
    ]
    return Table(
        "By group of questions [%]",
        columns(["group", "by"], ["n", *heads]),
        rows,
        "Without intervals: small groups say little.",
    )


def quadrants_table(found: Evaluation) -> Table:
    """Where the questions of each arm stand; of a pool, the means over its arms."""
    rows = []
    for name in (found.base, *found.shown):
        members = found.pools.get(name, [name])
        for reliance in dict.fromkeys(each.reliance for each in found.quadrants):
            of = [each for each in found.quadrants if each.arm in members and each.reliance == reliance]
            if not of:
                continue
            cells = [tables.text(name), tables.text(reliance)]
            if len(of) == 1:
                cells += [tables.estimate(of[0].shares[quadrant], PERCENT) for quadrant in found.quadrant_order]
            else:
                means = [[each.shares[quadrant].value or 0.0 for each in of] for quadrant in found.quadrant_order]
                cells += [tables.value(float(np.mean(values)), PERCENT) for values in means]
            moved = float(np.mean([1 - np.trace(each.moves) / max(1, each.questions) for each in of]))
            own = name == found.base
            cells += (
                [tables.text(NONE), tables.text(NONE)]
                if own
                else [tables.value(moved, PERCENT), tables.p(of[0].p if len(of) == 1 else None)]
            )
            rows.append(cells)
    meanings = "; ".join(f"{name}: {QUADRANTS[name]}" for name in found.quadrant_order if name in QUADRANTS)
    return Table(
        "Quadrants [% of the yes/no questions]",
        columns(["arm", "by"], [*found.quadrant_order, "moved", "p"]),
        rows,
        f"{sentence(meanings)} A question rests on the image if its answer changes with a grey image (grey, the "
        "published definition) or with any of four blanks and other patients' images (any). A blank image gives the "
        "right answer by chance in about half of the questions: by grey alone, a perfect model has many in dangerous. "
        "Moved: not where it was in the base. p: Stuart–Maxwell, shares against the base.",
    )


def moves_tables(found: Evaluation) -> list[Table]:
    """From which quadrant of the base the questions of each arm came, by the stricter reliance."""
    moved = []
    for each in found.quadrants:
        if each.arm == found.base:
            continue
        rows = [
            [tables.text(f"{name} in {found.base}"), *(tables.count(n) for n in counts), tables.count(sum(counts))]
            for name, counts in zip(found.quadrant_order, each.moves, strict=True)
        ]
        heads = [Column(f"{name} in {each.arm}") for name in found.quadrant_order]
        moved.append(
            Table(
                f"Where the questions went, {each.arm}, by {each.reliance}",
                [Column("from", False), *heads, Column("all")],
                rows,
            )
        )
    return moved


def trained_facts(record: AdapterRecord) -> list[tuple[str, str]]:
    """What was trained, on what, for how long."""
    rank, alpha = (record.settings.get(name, NONE) for name in ("rank", "alpha"))
    return [
        ("Layers trained", f"{layers(record.layers)} ({record.layers_from})"),
        ("Update", f"rank {rank}, α {alpha}, {record.trainable_parameters:,} parameters"),
        (
            "Trained on",
            f"{record.questions:,} questions of {record.patients:,} patients, {record.paraphrases:,} paraphrases",
        ),
        ("Steps", f"{record.steps:,} in {record.seconds:,.0f} s"),
        ("Loss", f"{number(record.first_loss)} over the first tenth, {number(record.last_loss)} over the last"),
    ]

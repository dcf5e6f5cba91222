"""The study of one feature laid out: does it move with the margin, does it cause the flips, what does it respond to?"""

from interp.schemas.study import Study
from interp.views.numbers import PERCENT, interval, number, spoken
from interp.views.report import tables
from interp.views.report.tables import Table, columns


def study_facts(study: Study) -> list[tuple[str, str]]:
    """The numbers of the feature as a whole."""
    tracking, grid, test = study.tracking, study.grid, study.test
    known = [
        ("Measured on", f"{study.questions:,} questions of {study.patients:,} patients, {tracking.flips:,} flips"),
        ("Active on", f"{number(study.density, PERCENT)}% of the wordings"),
        ("Correlation with the margin shift", interval(tracking.r, sign=True)),
        ("Flip AUC", interval(tracking.flip_auc)),
        ("Largest change of its layer", f"in {tracking.largest:,} of {tracking.flips:,} flips"),
    ]
    if test is not None:
        controls = ", ".join(number(each) for each in (test.random, test.matched, test.swapped))
        known += [
            ("Recovery", f"{interval(test.recovery)}, {test.n:,} flips"),
            ("Random, like, swapped", controls),
            ("Answers turned back", f"{test.reversals} of {test.n} (random {number(test.random_reversals)})"),
            ("Unflipped answers changed", f"{number(test.unflipped_changed, PERCENT)}%"),
        ]
    return [
        *known,
        ("Register grid, rank correlation", f"{interval(grid.spearman, sign=True)} (below 0: more active when formal)"),
        ("Wordings that end alike", f"{interval(grid.controlled, sign=True)}, {grid.controlled_pairs:,} pairs"),
        ("A unit adds, by the output layer", f"{number(study.direct_effect, sign=True)} logits"),
        ("Slope of the margin", f"{number(study.margin_slope, sign=True)} logits a unit"),
    ]


def groups_table(study: Study) -> Table:
    """Recovery of every group of flips."""
    rows = [
        [
            tables.text(spoken(each.group)),
            tables.text(each.grouping),
            tables.count(each.pairs),
            tables.count(each.patients),
            tables.value(each.shift),
            tables.estimate(each.recovery),
        ]
        for each in study.groups
    ]
    return Table(
        f"Recovery by group of flips, feature {study.name}",
        columns(["group", "by"], ["flips", "patients", "margin shift [logits]", "recovery"]),
        rows,
        "Brackets: 95% interval over patients, none for fewer than five.",
    )


def neighbours_table(study: Study) -> Table:
    """The features whose decoder rows point the same way."""
    return Table(
        f"Nearest neighbours of feature {study.name}",
        columns([], ["feature", "cosine"]),
        [[tables.Cell(str(each.feature), each.feature), tables.value(each.cosine)] for each in study.neighbours],
        "Cosine of the decoder rows. A feature may be one of several parts of what it stands for.",
    )

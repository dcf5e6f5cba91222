"""The tables of a single model that was measured and compared with nothing, as by `finetune benchmark`."""

from collections.abc import Callable, Collection
from typing import NamedTuple

from interp.schemas.evaluation import Evaluation, Measured
from interp.views.labels import GROUP_NAMES, MEASURE_MEANINGS, QUADRANT_MEANINGS, label, scale_of
from interp.views.numbers import PERCENT, interval, spoken
from interp.views.table import Cell, Column, Table, blank, count, estimate, tabulate, value, words

GROUPED = ("question_flip_rate", "accuracy", "text_only_agreement")
"""The measures in a table of groups."""
DECIDING = (*GROUPED, "paired_image_accuracy")
"""The measures of the short form: consistent, accurate, looking."""
MEANINGS = MEASURE_MEANINGS | QUADRANT_MEANINGS
"""Measure -> what it is; the shares of the quadrants are measures too."""


def measured_sentences(found: Evaluation) -> list[str]:
    """What a model that stands alone came to, in one sentence; none if it was asked no closed questions."""
    said = [
        text.format(interval(each, PERCENT, unit="%"))
        for measure, text in (
            ("question_flip_rate", "flips on {} of the questions"),
            ("accuracy", "is right in {} of the wordings"),
            ("text_only_agreement", "keeps {} of its answers without the image"),
            ("paired_image_accuracy", "is right in {} both on the image and on one with the opposite answer"),
        )
        if (each := found.value_of(found.base, measure)) is not None
    ]
    return [f"{found.base} {', '.join(said[:-1])} and {said[-1]}."] if len(said) > 1 else []


def measured_table(found: Evaluation, measures: Collection[str] | None = None) -> Table:
    """The `measures` over all questions, by default all of them."""
    rows = [m for m in found.measured if m.kind == "all" and (measures is None or m.measure in measures)]
    return tabulate(
        f"{found.base}: {found.questions:,} questions of {found.patients:,} patients",
        [
            words("measure", lambda row: label(row.measure), lambda row: MEANINGS.get(row.measure, "")),
            Column("n", lambda row: count(row.n)),
            Column(found.base, lambda row: estimate(row.value, scale_of(row.measure))),
        ],
        rows,
        "Brackets: 95% intervals, bootstrap over patients.",
    )


class _Group(NamedTuple):
    """One group of questions, with measure -> what was measured."""

    kind: str
    name: str
    of_measure: dict[str, Measured]


def measured_groups_table(found: Evaluation) -> Table:
    """Flips, accuracy and text-only agreement in each group of questions."""
    groups: dict[tuple[str, str], dict[str, Measured]] = {}
    for each in found.measured:
        if each.kind != "all" and each.measure in GROUPED:
            groups.setdefault((each.kind, each.subset), {})[each.measure] = each

    def cell(measure: str) -> Callable[[_Group], Cell]:
        def of(group: _Group) -> Cell:
            known = group.of_measure.get(measure)
            return value(known.value.value, scale_of(measure)) if known else blank()

        return of

    return tabulate(
        "By group of questions [%]",
        [
            words("group", lambda group: group.name),
            words("by", lambda group: GROUP_NAMES.get(group.kind, spoken(group.kind))),
            Column("n", lambda group: count(next(iter(group.of_measure.values())).n)),
            *(Column(label(measure).removesuffix(" [%]"), cell(measure)) for measure in GROUPED),
        ],
        [_Group(kind, name, of_measure) for (kind, name), of_measure in groups.items()],
        "Without intervals; the JSON has them. Small groups say little.",
    )

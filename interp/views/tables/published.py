"""Published figures on a feature beside those of a study."""

from collections.abc import Callable
from typing import NamedTuple

from interp.schemas.published import Measure, PublishedFeature, PublishedFigure
from interp.schemas.record import Interval
from interp.schemas.study import Study
from interp.views.numbers import NONE, PERCENT, UNSCALED, Scale, interval, number
from interp.views.table import Table, tabulate, words


class _Line(NamedTuple):
    """How one measure is called, printed, and read from a study."""

    label: str
    """What the first column says."""
    scale: Scale
    """How numbers are printed."""
    unit: str
    """What follows a number."""
    own: Callable[[Study], Interval | float | None]
    """The study's figure."""
    of: Callable[[Study], int | None] = lambda _: None
    """The number of flips that a count is of."""


COUNT = Scale(1, 0)
"""How counts are printed."""
LINES: dict[Measure, _Line] = {
    "recovery": _Line(
        "recovery by the feature patch, mean over flips",
        PERCENT,
        "%",
        lambda s: s.pair_effects.recovery if s.pair_effects else None,
    ),
    "cohens_d": _Line(
        "Cohen's d of that recovery", UNSCALED, "", lambda s: s.pair_effects.cohens_d if s.pair_effects else None
    ),
    "above_half": _Line(
        "flips recovered by more than half",
        COUNT,
        "",
        lambda s: s.pair_effects.above_half if s.pair_effects else None,
        lambda s: s.test.n if s.test else None,
    ),
    "unflipped_change": _Line(
        "change of the margin without a flip",
        UNSCALED,
        "",
        lambda s: s.pair_effects.unflipped_change if s.pair_effects else None,
    ),
    "reversals": _Line(
        "flips restored",
        COUNT,
        "",
        lambda s: s.test.reversals if s.test else None,
        lambda s: s.test.n if s.test else None,
    ),
    "largest": _Line(
        "flips with its |delta| the largest of the layer",
        COUNT,
        "",
        lambda s: s.tracking.largest,
        lambda s: s.tracking.flips,
    ),
    "r": _Line("correlation of delta with the margin shift", UNSCALED, "", lambda s: s.tracking.r),
    "flip_rate_before": _Line(
        "questions with a flip",
        PERCENT,
        "%",
        lambda s: s.clamp.flip_rate_before if s.clamp else None,
    ),
    "flip_rate_after": _Line(
        "questions with a flip, feature at zero",
        PERCENT,
        "%",
        lambda s: s.clamp.flip_rate_after if s.clamp else None,
    ),
    "accuracy_change": _Line(
        "change of accuracy, feature at zero [points]",
        PERCENT,
        "",
        lambda s: s.clamp.accuracy_change if s.clamp else None,
    ),
}
"""Measure -> its line."""


def published_table(study: Study, published: PublishedFeature) -> Table:
    """What is published on the feature, and what this study measured."""
    return tabulate(
        f"Published figures on feature {published.feature} beside these",
        [
            words("measure", lambda figure: LINES[figure.measure].label),
            words("published", _theirs),
            words("here", lambda figure: _ours(study, figure)),
            words("source", lambda figure: figure.source),
        ],
        published.figures,
        published.about,
    )


def _theirs(figure: PublishedFigure) -> str:
    line = LINES[figure.measure]
    text = interval(figure, line.scale, unit=line.unit)
    return text if figure.of is None else f"{text} of {figure.of:,}"


def _ours(study: Study, figure: PublishedFigure) -> str:
    line = LINES[figure.measure]
    own, of = line.own(study), line.of(study)
    if isinstance(own, Interval):
        return interval(own, line.scale, unit=line.unit)
    text = number(own, line.scale)
    if text == NONE:
        return text
    return text + line.unit if of is None else f"{text} of {of:,}"

"""Published figures on a feature beside those of a study."""

from collections.abc import Callable
from typing import Any, NamedTuple

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


COUNT, SHARE = Scale(1, 0), Scale(1.0, 3)
"""How counts, and shares of the margin shift, are printed; these have the digits of the published ones."""


def _measured(path: str) -> Callable[[Study], Any]:
    """Reads a figure of a study, as `part.name`; None where the part was not measured."""
    part, name = path.split(".")

    def read(study: Study) -> Any:
        measured = getattr(study, part)
        return None if measured is None else getattr(measured, name)

    return read


LINES: dict[Measure, _Line] = {
    "recovery": _Line("recovery by the feature patch, mean over flips", SHARE, "", _measured("pair_effects.recovery")),
    "cohens_d": _Line("Cohen's d of that recovery", UNSCALED, "", _measured("pair_effects.cohens_d")),
    "above_half": _Line(
        "flips recovered by more than half", COUNT, "", _measured("pair_effects.above_half"), _measured("test.n")
    ),
    "unflipped_change": _Line(
        "change of the margin without a flip", UNSCALED, "", _measured("pair_effects.unflipped_change")
    ),
    "reversals": _Line("flips restored", COUNT, "", _measured("test.reversals"), _measured("test.n")),
    "largest": _Line(
        "flips with its |delta| the largest of the layer",
        COUNT,
        "",
        _measured("tracking.largest"),
        _measured("tracking.flips"),
    ),
    "r": _Line("correlation of delta with the margin shift", UNSCALED, "", _measured("tracking.r")),
    "flip_rate_before": _Line("questions with a flip", PERCENT, "%", _measured("clamp.flip_rate_before")),
    "flip_rate_after": _Line(
        "questions with a flip, feature at zero", PERCENT, "%", _measured("clamp.flip_rate_after")
    ),
    "accuracy_change": _Line(
        "change of accuracy, feature at zero [points]", PERCENT, "", _measured("clamp.accuracy_change")
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

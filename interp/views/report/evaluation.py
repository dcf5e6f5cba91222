"""Adapters on the page: the verdict on each arm as tiles, and what was trained; the tables are in `views.tables`."""

import re
from typing import NamedTuple

from interp.schemas.adapter import AdapterRecord
from interp.schemas.evaluation import Axis, Comparison, Evaluation
from interp.schemas.layer_list import layers_text
from interp.views.labels import label, scale_of
from interp.views.numbers import NONE, interval, number, sentence
from interp.views.overview import Facts
from interp.views.tables.evaluation import clamp_controls


class Tile(NamedTuple):
    """One measure that decided a verdict."""

    measure: str
    """The measure in words, with its unit."""
    before: str
    """The value of the base."""
    after: str
    """The value of the arm."""
    difference: str
    """The difference with its interval."""
    state: str
    """better, kept, lost or unclear."""


class Judged(NamedTuple):
    """The verdict on one arm."""

    arm: str
    """Name of the arm or pool."""
    label: str
    """The verdict in one to four words."""
    sentence: str
    """The grounds of the verdict, without the label."""
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
        # The label stands in the heading already.
        grounds = re.sub(f"^{re.escape(verdict.label)}:", "", verdict.sentence, flags=re.IGNORECASE)
        said.append(Judged(arm, verdict.label, sentence(grounds), tiles, clamp_controls(found, arm)))
    return said


def _tile(axis: Axis, found: Comparison) -> Tile:
    scale = scale_of(axis.measure)
    before, after = (number(each.value, scale) for each in (found.before, found.after))
    change = interval(found.difference, scale, sign=True)
    return Tile(label(axis.measure), before, after, change, axis.state)


def adapter_facts(record: AdapterRecord) -> Facts:
    """What was trained, on what, and for how long."""
    rank, alpha = (record.settings.get(name, NONE) for name in ("rank", "alpha"))
    return [
        ("Layers trained", f"{layers_text(record.layers)} ({record.layers_from})"),
        ("Update", f"rank {rank}, α {alpha}, {record.trainable_parameters:,} parameters"),
        (
            "Trained on",
            f"{record.questions:,} questions of {record.patients:,} patients, {record.paraphrases:,} paraphrases",
        ),
        ("Steps", f"{record.steps:,} in {record.seconds:,.0f} s"),
        ("Loss", f"{number(record.first_loss)} over the first tenth, {number(record.last_loss)} over the last"),
    ]

"""Adapters on the page: the grounds of each verdict, and what was trained; the tables are in `views.tables`."""

import re
from typing import NamedTuple

from interp.schemas.adapter import AdapterRecord
from interp.schemas.evaluation import Evaluation
from interp.schemas.layer_list import layers_text
from interp.views.numbers import NONE, number, sentence
from interp.views.overview import Facts
from interp.views.tables.evaluation import clamp_controls


class Judged(NamedTuple):
    """The verdict on one arm."""

    arm: str
    """Name of the arm or pool."""
    label: str
    """The verdict in one to four words."""
    sentence: str
    """The grounds of the verdict, without the label."""
    controls: str
    """What clamps of other features did; empty for an adapter."""


def judged(found: Evaluation) -> list[Judged]:
    """The verdict on every arm that is shown."""
    said = []
    for arm in found.shown:
        verdict = found.verdicts[arm]
        # The label stands before it already.
        grounds = re.sub(f"^{re.escape(verdict.label)}:", "", verdict.sentence, flags=re.IGNORECASE)
        said.append(Judged(arm, verdict.label, sentence(grounds), clamp_controls(found, arm)))
    return said


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

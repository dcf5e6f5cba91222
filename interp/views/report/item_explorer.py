"""What was measured on every single wording, to explore: the items that `--keep-items` kept."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from interp.schemas.items import ItemKind
from interp.views.numbers import spoken
from interp.views.report.collect import KeptItems
from interp.views.report.explorer import Explorer, Field, bounded, shares_of, yes_no

ITEMS_SHOWN = 10_000
"""Most wordings on a page, of all its tables of items together."""
ASKED = [
    Field("question_key", "question", meaning="a salted hash, as in items.parquet"),
    Field("wording", "wording", "number", "number of the wording in its question; 0 is the original", digits=0),
    Field("type", "type", "choice", shown=False),
    Field("finding", "finding", "choice"),
    Field("phenomenon", "phenomenon", "choice", "what the paraphrase changed", shown=False),
    Field("registers", "registers", "choice", "register of the original and of the wording", shown=False),
    Field("answer", "true answer", "choice"),
]
"""Columns of every item."""
TEXTS = [Field("original", "original wording", shown=False), Field("text", "wording asked")]
"""Columns that are shown on demand."""
SEARCH = [
    Field("flips", "flips", "choice", "whether the answers to the two wordings differ"),
    Field("margin_original", "margin, original", "number", "answer margin of the original wording [logits]"),
    Field("margin_wording", "margin, wording", "number", "that of this wording"),
    Field("half", "half", "choice", "whether the pair chose features or tested them", shown=False),
    Field("banked", "in flip bank", "choice", "", shown=False),
    Field("delta", "delta", "number", "change of the first feature's activation", shown=False),
    Field("recovery", "recovery", "number", "share of the shift that the first feature's patch recovers", shown=False),
]
"""Columns of the items of a search."""
EVALUATION = [
    Field("arm", "arm", "choice"),
    Field("consistency", "consistency", "choice", "whether the answer to this wording differs from the original's"),
    Field("correctness", "correctness", "choice", "whether the answer is right, with the base and with the arm"),
    Field("margin_before", "margin, base", "number", "answer margin [logits]"),
    Field("margin_after", "margin, arm", "number"),
    Field("quadrant", "quadrant", "choice", "of the question, by any blank or swapped image", shown=False),
    Field("blank_margin_before", "without image, base", "number", "margin with a grey image [logits]", shown=False),
    Field("blank_margin_after", "without image, arm", "number", "", shown=False),
]
"""Columns of the items of an evaluation."""
FIELDS: dict[ItemKind, list[Field]] = {"search": SEARCH, "evaluation": EVALUATION}
"""Kind of items -> its own columns."""
HINTS: dict[ItemKind, list[str]] = {
    "search": ["Which questions flip? Choose flips: yes.", "Which flips are clearest? Sort by a margin."],
    "evaluation": [
        "Which questions did the adapter break? Choose consistency: broken, or correctness: right → wrong.",
        "Which did it repair? Choose consistency: repaired.",
    ],
}
"""Kind of items -> questions that they answer."""


def item_explorers(kept: Sequence[KeptItems]) -> list[Explorer]:
    """One explorer for each table of items; what changes or flips comes first where not all can be shown."""
    shown = shares_of(ITEMS_SHOWN, [len(each.table) for each in kept])
    return [_explorer(each, most, place) for place, (each, most) in enumerate(zip(kept, shown, strict=True))]


def _explorer(kept: KeptItems, most: int, place: int) -> Explorer:
    frame = _of_search(kept.table) if kept.kind == "search" else _of_evaluation(kept.table)
    # Where the wording is there, the key that stands for it has to give way to it.
    asked = [replace(ASKED[0], shown=False), *ASKED[1:]] if kept.texts else ASKED
    fields = [*(TEXTS if kept.texts else []), *asked, *FIELDS[kept.kind]]
    of_all = f" of {len(frame):,}" if most < len(frame) else ""
    first = ", what flips or changes first" if of_all else ""
    return Explorer(
        f"items-{place}",
        f"{kept.title}: {most:,}{of_all} wordings{first}",
        fields,
        bounded(frame.sort_values("rank", kind="stable"), most),
        "Margins are above 0 where the answer is yes.",
        hints=HINTS[kept.kind],
    )


def _of_search(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(
        flips=yes_no(table["flipped"]),
        half=yes_no(table["held_out"], "held out", "selection"),
        banked=yes_no(table["banked"]),
        phenomenon=table["phenomenon"].map(spoken),
        rank=~table["flipped"].astype(bool),
    )


def _of_evaluation(table: pd.DataFrame) -> pd.DataFrame:
    consistency = _moves(table["flipped_before"], table["flipped_after"], CONSISTENCY)
    correctness = _moves(table["correct_before"], table["correct_after"], CORRECTNESS)
    quadrant = [
        None if pd.isna(before) else before if before == after else f"{before} → {after}"
        for before, after in zip(table["quadrant_any_before"], table["quadrant_any_after"], strict=True)
    ]
    moved = {"broken", "repaired", "right → wrong", "wrong → right"}
    changed = [bool(moved & {one, other}) for one, other in zip(consistency, correctness, strict=True)]
    flips = [one == "flips in both" for one in consistency]
    return table.assign(
        consistency=consistency,
        correctness=correctness,
        quadrant=quadrant,
        phenomenon=table["phenomenon"].map(spoken),
        rank=np.where(changed, 0, np.where(flips, 1, 2)),
    )


CONSISTENCY = {
    (False, True): "broken",
    (True, False): "repaired",
    (True, True): "flips in both",
    (False, False): "consistent in both",
}
"""Whether the answer flips with the base and with the arm -> how that is called."""
CORRECTNESS = {
    (True, False): "right → wrong",
    (False, True): "wrong → right",
    (True, True): "right in both",
    (False, False): "wrong in both",
}
"""Whether the answer is right with the base and with the arm -> how that is called."""


def _moves(
    before: "pd.Series[bool]", after: "pd.Series[bool]", names: dict[tuple[bool, bool], str]
) -> list[str | None]:
    return [
        None if pd.isna(old) or pd.isna(new) else names[bool(old), bool(new)]
        for old, new in zip(before, after, strict=True)
    ]

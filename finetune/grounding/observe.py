"""Running every arm on every image, and putting what it did in the order of the questions."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from finetune.adapter import changes_sight
from finetune.grounding.faithfulness import Floats, order_of
from finetune.grounding.looking import FILLS, Look, MapSettings, Sight, curves, look, margins_without_regions, see
from finetune.grounding.plan import Lesion
from interp.progress import track
from interp.saes import Sae
from interp.vlm import Vlm

if TYPE_CHECKING:
    from peft import PeftModel

RANDOM_ORDERS = 3
"""Random orders beside the maps' in deletion and insertion."""


class Observed(NamedTuple):
    """What one arm did on every row of the asks table, and on every question."""

    margins: Floats
    """[asks] answer margin [logits]."""
    maps: Mapping[str, Floats]
    """Name -> [asks, T], as in `finetune.grounding.looking.Look`."""
    reference: Floats
    """[asks, T] occlusion by the chosen fill."""
    other_fills: Floats
    """[asks, f, T] occlusion by every other fill, NaN for what are no originals."""
    curves: Sequence[Floats]
    """Of every question, margins of deletion and insertion [maps + RANDOM_ORDERS, 2, steps + 1] [logits]."""
    without: Sequence[Floats]
    """Of every question, the margin without its boxes, and without each place away from them [1 + places] [logits]."""


def observe(
    vlm: Vlm,
    adapted: "PeftModel | None",
    asks: pd.DataFrame,
    lesions: Sequence[Lesion],
    settings: MapSettings,
    curve_steps: int,
    seed: int,
    feature: tuple[Sae, int] | None = None,
) -> dict[str, Observed]:
    """Every arm, base and if there is one adapter, on every image of an asks table (`finetune.grounding.plan`).

    Both arms meet the same random orders. An image and its parts meet the vision tower once, unless the adapter changes
    the tower too.
    """
    arms = ["base"] if adapted is None else ["base", "adapter"]
    apart = adapted is not None and changes_sight(adapted)
    fills = [settings.fill, *(f for f in FILLS if f != settings.fill and "occlusion" in settings.maps)]
    rows_of = {str(image): rows for image, rows in asks.groupby("image", sort=False)}
    looks: dict[str, list[Look]] = {arm: [] for arm in arms}
    parts: dict[str, dict[int, tuple[Floats, Floats]]] = {arm: {} for arm in arms}
    for image in track(list(rows_of), "images"):
        rows = rows_of[image]
        texts, closed = rows["text"].tolist(), rows["closed"].tolist()
        originals = np.flatnonzero(rows["role"] == "original").tolist()
        sight: Sight | None = None
        for arm in arms:
            with _as_arm(adapted, arm):
                if sight is None or apart:
                    sight = see(vlm, image, fills)
                seen = look(vlm, sight, texts, closed, originals, settings, feature)
                looks[arm].append(seen)
                for k in originals:
                    question = int(rows["question"].iloc[k])
                    rng = np.random.default_rng([seed, question])
                    randoms = [rng.permutation(len(sight.tokens)) for _ in range(RANDOM_ORDERS)]
                    orders = [order_of(values[k], rng) for values in seen.maps.values()]
                    asked = (vlm, sight, settings.fill, texts[k], closed[k])
                    ways = curves(*asked, orders, randoms, curve_steps)
                    places = [lesions[question].boxes, *lesions[question].away]
                    parts[arm][question] = (ways, margins_without_regions(*asked, places))
    place = np.argsort(np.concatenate([rows.index for rows in rows_of.values()]))
    return {arm: _joined(looks[arm], place, parts[arm]) for arm in arms}


def _joined(looks: Sequence[Look], place: NDArray[np.intp], parts: Mapping[int, tuple[Floats, Floats]]) -> Observed:
    """The looks of all images in the order of the asks table, and the parts in that of the questions."""

    def whole(arrays: Sequence[Floats]) -> Floats:
        return np.concatenate(arrays)[place]

    return Observed(
        margins=whole([seen.margins for seen in looks]),
        maps={name: whole([seen.maps[name] for seen in looks]) for name in looks[0].maps},
        reference=whole([seen.reference for seen in looks]),
        other_fills=whole([seen.other_fills for seen in looks]),
        curves=[parts[i][0] for i in sorted(parts)],
        without=[parts[i][1] for i in sorted(parts)],
    )


def _as_arm(adapted: "PeftModel | None", arm: str) -> AbstractContextManager[None]:
    return adapted.disable_adapter() if adapted is not None and arm == "base" else nullcontext()

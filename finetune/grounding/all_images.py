"""Running every arm on every image, and putting what it did in the order of the questions."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from finetune.grounding.map_scores import Floats, order_of
from finetune.grounding.one_image import FILLS, MapSettings, Sight, curves, look, margins_without_regions, see
from finetune.grounding.questions import Lesion
from finetune.grounding.resume import Kept, Seen
from finetune.lora.adapter_folder import changes_sight
from interp.model.vlm import Vlm
from interp.runtime.errors import InputError
from interp.runtime.progress import track
from interp.saes.sae import Sae

if TYPE_CHECKING:
    from peft import PeftModel

RANDOM_ORDERS = 3
"""Random orders beside the maps' in deletion and insertion."""


class Observed(NamedTuple):
    """What one arm did on every row of the asks table, and on every question."""

    margins: Floats
    """[asks] answer margin [logits]."""
    maps: Mapping[str, Floats]
    """Name -> [asks, T], as in `finetune.grounding.one_image.Look`."""
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
    kept: Kept | None = None,
) -> dict[str, Observed]:
    """Every arm, base and if there is one adapter, on every image of an asks table (`finetune.grounding.questions`).

    Both arms meet the same random orders. An image and its parts meet the vision tower once, unless the adapter changes
    the tower too. Images that are `kept` are not looked at again. Raises InputError if a margin is not finite.
    """
    arms = ["base"] if adapted is None else ["base", "adapter"]
    apart = adapted is not None and changes_sight(adapted)
    fills = [settings.fill, *(f for f in FILLS if f != settings.fill and "occlusion" in settings.maps)]
    rows_of = {str(image): rows for image, rows in asks.groupby("image", sort=False)}
    found: list[dict[str, Seen]] = []
    for number, image in enumerate(track(list(rows_of), "images")):
        seen = kept.read(number) if kept else None
        if seen is None:
            seen, sight = {}, None
            for arm in arms:
                with _as_arm(adapted, arm):
                    if sight is None or apart:
                        sight = see(vlm, image, fills)
                    seen[arm] = _seen(vlm, sight, rows_of[image], lesions, settings, curve_steps, seed, feature)
            if kept:
                kept.write(number, seen)
        found.append(seen)
    place = np.argsort(np.concatenate([rows.index for rows in rows_of.values()]))
    return {arm: _joined([seen[arm] for seen in found], place) for arm in arms}


def _seen(
    vlm: Vlm,
    sight: Sight,
    rows: pd.DataFrame,
    lesions: Sequence[Lesion],
    settings: MapSettings,
    curve_steps: int,
    seed: int,
    feature: tuple[Sae, int] | None,
) -> Seen:
    """What the model as it stands does on one image, of which `rows` are those of the asks table."""
    texts, closed = rows["text"].tolist(), rows["closed"].tolist()
    originals = np.flatnonzero(rows["role"] == "original").tolist()
    seen = look(vlm, sight, texts, closed, originals, settings, feature)
    ways, without = {}, {}
    for k in originals:
        question = int(rows["question"].iloc[k])
        rng = np.random.default_rng([seed, question])
        randoms = [rng.permutation(len(sight.tokens)) for _ in range(RANDOM_ORDERS)]
        orders = [order_of(values[k], rng) for values in seen.maps.values()]
        asked = (vlm, sight, settings.fill, texts[k], closed[k])
        ways[question] = curves(*asked, orders, randoms, curve_steps)
        without[question] = margins_without_regions(*asked, [lesions[question].boxes, *lesions[question].away])
    for question, values in zip(rows["question"], seen.margins, strict=True):
        if not np.isfinite([values, *np.ravel(ways.get(question, ())), *without.get(question, ())]).all():
            raise InputError(
                f"A margin of question {question + 1} of those studied is not finite. Try --dtype float32, or check "
                "the model's weights."
            )
    return Seen(seen, ways, without)


def _joined(found: Sequence[Seen], place: NDArray[np.intp]) -> Observed:
    """What was seen on all images in the order of the asks table, and parts in that of the questions."""
    looks = [seen.look for seen in found]
    ways = {question: values for seen in found for question, values in seen.curves.items()}
    without = {question: values for seen in found for question, values in seen.without.items()}

    def whole(arrays: Sequence[Floats]) -> Floats:
        return np.concatenate(arrays)[place]

    return Observed(
        margins=whole([seen.margins for seen in looks]),
        maps={name: whole([seen.maps[name] for seen in looks]) for name in looks[0].maps},
        reference=whole([seen.reference for seen in looks]),
        other_fills=whole([seen.other_fills for seen in looks]),
        curves=[ways[i] for i in sorted(ways)],
        without=[without[i] for i in sorted(without)],
    )


def _as_arm(adapted: "PeftModel | None", arm: str) -> AbstractContextManager[None]:
    return adapted.disable_adapter() if adapted is not None and arm == "base" else nullcontext()

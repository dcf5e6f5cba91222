"""Observing every arm on every image, and putting the observations in the order of the questions."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from finetune.grounding.map_scores import Floats, order_of
from finetune.grounding.one_image import (
    EncodedImage,
    curves,
    encode_with_occlusions,
    map_wordings,
    margins_without_regions,
)
from finetune.grounding.questions import Lesion
from finetune.grounding.resume import ImageObservation, read_image, write_image
from finetune.grounding.settings import FILLS, MapSettings
from finetune.lora.adapter_folder import changes_vision_encoder
from interp.model.vlm import Vlm
from interp.runtime.errors import InputError
from interp.runtime.progress import track
from interp.saes.sae import Sae
from interp.storage.checkpoint import NO_CHECKPOINT, Checkpoint

if TYPE_CHECKING:
    from peft import PeftModel

RANDOM_ORDERS = 3
"""Number of random orders that control deletion and insertion in the maps' orders."""


class ArmObservations(NamedTuple):
    """The observations of one arm, by wording (a row of the wording table) and by question."""

    margins: Floats
    """[wordings] answer margin [logits]."""
    maps: Mapping[str, Floats]
    """Name -> [wordings, T] map, as in `finetune.grounding.one_image.WordingMaps`."""
    reference: Floats
    """[wordings, T] occlusion map by the chosen fill."""
    other_fills: Floats
    """[wordings, f, T] occlusion map by each other fill; NaN for wordings other than originals."""
    curves: Sequence[Floats]
    """For each question, margins of deletion and insertion [maps + RANDOM_ORDERS, 2, steps + 1] [logits]."""
    without: Sequence[Floats]
    """For each question, the margin with its boxes filled, then with each place away from them filled [1 + places]
    [logits]."""


def observe_images(
    vlm: Vlm,
    adapted: "PeftModel | None",
    wordings: pd.DataFrame,
    lesions: Sequence[Lesion],
    settings: MapSettings,
    curve_steps: int,
    seed: int,
    feature: tuple[Sae, int] | None = None,
    checkpoint: Checkpoint = NO_CHECKPOINT,
) -> dict[str, ArmObservations]:
    """Observe the base, and the adapter if there is one, on every image of a `wording_table`.

    Both arms get the same random orders. Each image and its occlusions are encoded once, unless the adapter changes the
    vision tower too. Images that are in the `checkpoint` are read from it. Raises InputError if a margin is not finite.
    """
    arms = ["base"] if adapted is None else ["base", "adapter"]
    own_tower = adapted is not None and changes_vision_encoder(adapted)
    fills = [settings.fill, *(f for f in FILLS if f != settings.fill and "occlusion" in settings.maps)]
    rows_of = {str(image): rows for image, rows in wordings.groupby("image", sort=False)}
    found: list[dict[str, ImageObservation]] = []
    for number, image in enumerate(track(list(rows_of), "images")):
        of_arm = read_image(checkpoint, number)
        if of_arm is None:
            of_arm, encoded = {}, None
            for arm in arms:
                with _as_arm(adapted, arm):
                    if encoded is None or own_tower:
                        encoded = encode_with_occlusions(vlm, image, fills)
                    of_arm[arm] = _observe_image(
                        vlm, encoded, rows_of[image], lesions, settings, curve_steps, seed, feature
                    )
            write_image(checkpoint, number, of_arm)
        found.append(of_arm)
    place = np.argsort(np.concatenate([rows.index for rows in rows_of.values()]))
    return {arm: _joined([of_arm[arm] for of_arm in found], place) for arm in arms}


def _observe_image(
    vlm: Vlm,
    encoded: EncodedImage,
    rows: pd.DataFrame,
    lesions: Sequence[Lesion],
    settings: MapSettings,
    curve_steps: int,
    seed: int,
    feature: tuple[Sae, int] | None,
) -> ImageObservation:
    """Observe the model, in its present state, on one image; `rows` are the image's rows of the wording table."""
    texts, closed = rows["text"].tolist(), rows["closed"].tolist()
    originals = np.flatnonzero(rows["role"] == "original").tolist()
    mapped = map_wordings(vlm, encoded, texts, closed, originals, settings, feature)
    curves_of, without = {}, {}
    for k in originals:
        question = int(rows["question"].iloc[k])
        rng = np.random.default_rng([seed, question])
        random_orders = [rng.permutation(len(encoded.tokens)) for _ in range(RANDOM_ORDERS)]
        orders = [order_of(values[k], rng) for values in mapped.maps.values()]
        prompt = (vlm, encoded, settings.fill, texts[k], closed[k])
        curves_of[question] = curves(*prompt, orders, random_orders, curve_steps)
        without[question] = margins_without_regions(*prompt, [lesions[question].boxes, *lesions[question].away])
    for question, margin in zip(rows["question"], mapped.margins, strict=True):
        if not np.isfinite([margin, *np.ravel(curves_of.get(question, ())), *without.get(question, ())]).all():
            raise InputError(
                f"A margin of question {question + 1} of those studied is not finite. Try --dtype float32, or check "
                "the model's weights."
            )
    return ImageObservation(mapped, curves_of, without)


def _joined(found: Sequence[ImageObservation], place: NDArray[np.intp]) -> ArmObservations:
    """Concatenate the images' observations in the order of the wording table, and of the questions."""
    mapped = [each.wordings for each in found]
    curves_of = {question: values for each in found for question, values in each.curves.items()}
    without = {question: values for each in found for question, values in each.without.items()}

    def whole(arrays: Sequence[Floats]) -> Floats:
        return np.concatenate(arrays)[place]

    return ArmObservations(
        margins=whole([each.margins for each in mapped]),
        maps={name: whole([each.maps[name] for each in mapped]) for name in mapped[0].maps},
        reference=whole([each.reference for each in mapped]),
        other_fills=whole([each.other_fills for each in mapped]),
        curves=[curves_of[i] for i in sorted(curves_of)],
        without=[without[i] for i in sorted(without)],
    )


def _as_arm(adapted: "PeftModel | None", arm: str) -> AbstractContextManager[None]:
    return adapted.disable_adapter() if adapted is not None and arm == "base" else nullcontext()

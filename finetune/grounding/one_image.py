"""Saliency maps of one image: a map for each wording, and margins when parts of the image are removed."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finetune.grounding.map_scores import removals
from finetune.grounding.settings import MapSettings
from interp.images.boxes import centres_in, grid_side
from interp.images.decode import BLANK_IMAGE
from interp.measurement.occlusion import (
    Fill,
    encode_occluded,
    image_margins,
    image_pixels,
    make_fill,
    occlude,
    single_cells,
    token_margins,
)
from interp.measurement.saliency import attention, feature_maps, gradient_maps, integrated_gradient_maps
from interp.model.image_tokens import encode_pixels
from interp.model.vlm import Vlm
from interp.saes.sae import Sae

Floats = NDArray[np.float64]
Order = NDArray[np.intp]


class EncodedImage(NamedTuple):
    """One image and its single-cell occlusions, encoded by the vision tower; all arms with the same tower share it."""

    pixels: Tensor
    """[3, h, w] preprocessed pixels of the image."""
    tokens: Tensor
    """[T, d_model] image tokens of the whole image."""
    blank: Tensor
    """[T, d_model] image tokens of the grey image."""
    without: Mapping[Fill, Tensor]
    """Fill -> [T, T, d_model] image tokens of the image without the i-th cell."""

    @property
    def side(self) -> int:
        """Number of cells along one side of the grid."""
        return grid_side(len(self.tokens))


class WordingMaps(NamedTuple):
    """Margins and maps of the t wordings that are original_wordings about one image."""

    margins: Floats
    """[t] answer margin [logits]."""
    maps: Mapping[str, Floats]
    """Name -> [t, T] map, positive where the image supports the model's answer; the map of a feature is positive where
    the image supports the feature."""
    reference: Floats
    """[t, T] occlusion map by the chosen fill, the reference whether or not it is among the maps."""
    other_fills: Floats
    """[t, f, T] occlusion map by each other fill; NaN for wordings other than originals."""


@torch.no_grad()
def encode_with_occlusions(vlm: Vlm, image: str, fills: Sequence[Fill]) -> EncodedImage:
    """Encode an image and, for each of `fills`, all of its single-cell occlusions."""
    pixels = image_pixels(vlm, image)
    tokens, blank = encode_pixels(vlm.model, torch.stack([pixels, image_pixels(vlm, BLANK_IMAGE)]))
    cells = single_cells(grid_side(len(tokens)))
    without = {fill: encode_occluded(vlm, pixels, make_fill(vlm, pixels, fill), cells) for fill in fills}
    return EncodedImage(pixels, tokens, blank, without)


def map_wordings(
    vlm: Vlm,
    encoded: EncodedImage,
    texts: Sequence[str],
    closed: Sequence[bool],
    originals: Sequence[int],
    settings: MapSettings,
    feature: tuple[Sae, int] | None = None,
) -> WordingMaps:
    """Compute the maps in `settings` and the reference occlusion for t wordings about one image.

    `originals` are the positions of the wordings for which occlusions by the other fills are measured too. `feature`
    adds the map of an SAE feature.
    """
    margins = token_margins(vlm, encoded.tokens[None], texts, closed)[0].double()
    # An answer is yes only if its margin is above zero, as everywhere in GateScope.
    sign = torch.where(margins > 0, 1.0, -1.0)[:, None]
    maps: dict[str, Tensor] = {}
    if {"attention", "rollout"} & set(settings.maps):
        attended = attention(vlm, encoded.tokens, texts, closed)
        layers = list(settings.layers or range(vlm.n_layers))
        heads = list(settings.heads or range(attended.weights.shape[2]))
        maps["attention"] = attended.weights[:, layers][:, :, heads].mean((1, 2))
        maps["rollout"] = attended.rollout[:, max(layers)]
    if "gradient" in settings.maps:
        maps["gradient"] = sign * gradient_maps(vlm, encoded.tokens, texts, closed)
    if "integrated" in settings.maps:
        steps = settings.integration_steps
        maps["integrated"] = sign * integrated_gradient_maps(vlm, encoded.tokens, encoded.blank, texts, closed, steps)
    reference = sign * (margins - token_margins(vlm, encoded.without[settings.fill], texts, closed)).T
    maps["occlusion"] = reference
    maps = {name: maps[name] for name in settings.maps}
    if feature is not None:
        maps["feature"] = feature_maps(vlm, encoded.tokens, *feature, texts, closed)
    others = [fill for fill in encoded.without if fill != settings.fill]
    other = torch.full((len(texts), len(others), len(encoded.tokens)), torch.nan, dtype=torch.float64)
    rows, original_wordings = list(originals), ([texts[i] for i in originals], [closed[i] for i in originals])
    for k, fill in enumerate(others if rows else []):
        other[rows, k] = sign[rows] * (margins[rows] - token_margins(vlm, encoded.without[fill], *original_wordings)).T
    arrays = {name: values.double().numpy() for name, values in maps.items()}
    return WordingMaps(margins.numpy(), arrays, reference.numpy(), other.numpy())


def curves(
    vlm: Vlm,
    encoded: EncodedImage,
    fill: Fill,
    text: str,
    closed: bool,
    orders: Sequence[Order],
    backwards: Sequence[Order],
    steps: int,
) -> Floats:
    """Measure deletion and insertion curves (RISE, Petsiuk et al., arXiv 1806.07421).

    Returns margins [orders + backwards, 2, steps + 1] in logits. Deletion, index 0, removes cells in the given order
    from the whole image until none is left; insertion, index 1, adds cells in that order to the empty image. The orders
    in `backwards` are inserted in reverse: for a random order that is equally random, and it needs no further images.
    """
    masks = [(removals(order, steps), ~removals(order, steps)) for order in orders]
    masks += [(removals(order, steps), ~removals(order[::-1], steps)) for order in backwards]
    stacked = np.array(masks)
    different, place = np.unique(stacked.reshape(-1, stacked.shape[-1]), axis=0, return_inverse=True)
    removed = torch.from_numpy(different).reshape(-1, encoded.side, encoded.side)
    tokens = encode_occluded(vlm, encoded.pixels, make_fill(vlm, encoded.pixels, fill), removed)
    margins = token_margins(vlm, tokens, [text], [closed])[:, 0].double().numpy()
    return margins[place].reshape(stacked.shape[:3])


def margins_without_regions(
    vlm: Vlm, encoded: EncodedImage, fill: Fill, text: str, closed: bool, places: Sequence[Floats]
) -> Floats:
    """Return the margin [places] with the boxes of each place filled; boxes [n, 4] are in shares of the image."""
    masks = torch.from_numpy(np.stack([centres_in(boxes, encoded.pixels.shape[1]) for boxes in places]))
    pixels = occlude(encoded.pixels, make_fill(vlm, encoded.pixels, fill), masks)
    return image_margins(vlm, pixels, [text], [closed])[:, 0].double().numpy()

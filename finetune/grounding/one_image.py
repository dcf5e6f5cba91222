"""One model looking at one image: the maps of every wording, and what happens when parts of the image go."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finetune.grounding.map_scores import removals
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
from interp.runtime.errors import InputError
from interp.saes.sae import Sae
from interp.schemas.layer_list import listed_layers

Floats = NDArray[np.float64]
Order = NDArray[np.intp]

MAPS = ("attention", "rollout", "gradient", "integrated", "occlusion")
FILLS: tuple[Fill, ...] = ("grey", "blur", "mean")


@dataclass(frozen=True)
class MapSettings:
    """Which maps, and how they are made. Raises InputError for a map or fill that does not exist."""

    maps: tuple[str, ...] = MAPS
    """Among MAPS; the occlusion by `fill` is measured in any case, as the reference."""
    fill: Fill = "grey"
    """What a removed part is replaced by, wherever parts are removed."""
    layers: tuple[int, ...] | None = None
    """Of the attention map; the rollout goes up to the last of them. None for all."""
    heads: tuple[int, ...] | None = None
    """Of the attention map; None for all."""
    integration_steps: int = 12
    """Points on the way of the integrated gradients; on the embedded world 12 rank the cells as 64 do (.998)."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.maps if name not in MAPS]
        if unknown or not self.maps:
            raise InputError(f"--maps: found {', '.join(unknown) or 'none'}, expected some of {', '.join(MAPS)}.")
        if self.fill not in FILLS:
            raise InputError(f"--fill {self.fill}: expected one of {', '.join(FILLS)}.")

    def check(self, vlm: Vlm) -> None:
        """Raise InputError for layers or heads that the model does not have."""
        counts = {"layers": vlm.n_layers, "heads": vlm.model.config.text_config.num_attention_heads}
        for name, count in counts.items():
            beyond = [i for i in getattr(self, name) or () if not 0 <= i < count]
            if beyond:
                raise InputError(f"--{name}: found {beyond[0]}, but {vlm.name} has {name} 0 to {count - 1}.")


def map_settings(maps: str | None, fill: Fill, layers: str | None, heads: str | None) -> MapSettings:
    """Settings from text: maps with commas, layers and heads as 15-19 or 9,17; None for all of each.

    Raises InputError for anything else.
    """
    named = MAPS if maps is None else tuple(dict.fromkeys(name.strip() for name in maps.split(",")))
    try:
        of_heads = listed_layers(heads or "all")
    except InputError:
        raise InputError(f"--heads {heads!r}: expected 'all', a range as 0-3, or a list as 0,2.") from None
    of_layers = listed_layers(layers or "all")
    chosen = [None if part is None else tuple(part) for part in (of_layers, of_heads)]
    return MapSettings(named, fill, layers=chosen[0], heads=chosen[1])


class Sight(NamedTuple):
    """What the vision tower makes of one image and of what is left of it, as long as the tower is the same."""

    pixels: Tensor
    """[3, h, w]."""
    tokens: Tensor
    """[T, d_model]."""
    blank: Tensor
    """[T, d_model] tokens of the grey image."""
    without: Mapping[Fill, Tensor]
    """Fill -> [T, T, d_model]: tokens without the i-th cell."""

    @property
    def side(self) -> int:
        """Cells a side."""
        return grid_side(len(self.tokens))


class Look(NamedTuple):
    """Margins and maps of the t wordings of one image."""

    margins: Floats
    """[t] answer margin [logits]."""
    maps: Mapping[str, Floats]
    """Name -> [t, T], positive for what speaks for the model's answer; a feature's for what speaks for the feature."""
    reference: Floats
    """[t, T] the occlusion map by the chosen fill, asked for as a map or not."""
    other_fills: Floats
    """[t, f, T] the occlusion map by every other fill; NaN for wordings that are no originals."""


@torch.no_grad()
def see(vlm: Vlm, image: str, fills: Sequence[Fill]) -> Sight:
    """Send an image and all of its occlusions by `fills` through the vision tower."""
    pixels = image_pixels(vlm, image)
    tokens, blank = encode_pixels(vlm.model, torch.stack([pixels, image_pixels(vlm, BLANK_IMAGE)]))
    cells = single_cells(grid_side(len(tokens)))
    without = {fill: encode_occluded(vlm, pixels, make_fill(vlm, pixels, fill), cells) for fill in fills}
    return Sight(pixels, tokens, blank, without)


def look(
    vlm: Vlm,
    sight: Sight,
    texts: Sequence[str],
    closed: Sequence[bool],
    originals: Sequence[int],
    settings: MapSettings,
    feature: tuple[Sae, int] | None = None,
) -> Look:
    """Every map that `settings` name, and the reference occlusion, of the t wordings put to one image.

    `originals` are the positions among them for which the occlusions by other fills are wanted.
    """
    margins = token_margins(vlm, sight.tokens[None], texts, closed)[0].double()
    # As everywhere, an answer is yes only if its margin is above zero.
    sign = torch.where(margins > 0, 1.0, -1.0)[:, None]
    maps: dict[str, Tensor] = {}
    if {"attention", "rollout"} & set(settings.maps):
        seen = attention(vlm, sight.tokens, texts, closed)
        layers = list(settings.layers or range(vlm.n_layers))
        heads = list(settings.heads or range(seen.weights.shape[2]))
        maps["attention"] = seen.weights[:, layers][:, :, heads].mean((1, 2))
        maps["rollout"] = seen.rollout[:, max(layers)]
    if "gradient" in settings.maps:
        maps["gradient"] = sign * gradient_maps(vlm, sight.tokens, texts, closed)
    if "integrated" in settings.maps:
        steps = settings.integration_steps
        maps["integrated"] = sign * integrated_gradient_maps(vlm, sight.tokens, sight.blank, texts, closed, steps)
    reference = sign * (margins - token_margins(vlm, sight.without[settings.fill], texts, closed)).T
    maps["occlusion"] = reference
    maps = {name: maps[name] for name in settings.maps}
    if feature is not None:
        maps["feature"] = feature_maps(vlm, sight.tokens, *feature, texts, closed)
    others = [fill for fill in sight.without if fill != settings.fill]
    other = torch.full((len(texts), len(others), len(sight.tokens)), torch.nan, dtype=torch.float64)
    rows, asked = list(originals), ([texts[i] for i in originals], [closed[i] for i in originals])
    for k, fill in enumerate(others if rows else []):
        other[rows, k] = sign[rows] * (margins[rows] - token_margins(vlm, sight.without[fill], *asked)).T
    plain = {name: values.double().numpy() for name, values in maps.items()}
    return Look(margins.numpy(), plain, reference.numpy(), other.numpy())


def curves(
    vlm: Vlm,
    sight: Sight,
    fill: Fill,
    text: str,
    closed: bool,
    orders: Sequence[Order],
    backwards: Sequence[Order],
    steps: int,
) -> Floats:
    """Margins while cells go in an order, and while they come: [orders + backwards, 2, steps + 1], deletion, insertion.

    As in RISE (Petsiuk et al., arXiv 1806.07421), from the whole image to none, and from none to the whole. The orders
    of `backwards` are deleted as they are and inserted from behind, which of a random order is as random and meets the
    same images.
    """
    masks = [(removals(order, steps), ~removals(order, steps)) for order in orders]
    masks += [(removals(order, steps), ~removals(order[::-1], steps)) for order in backwards]
    stacked = np.array(masks)
    different, place = np.unique(stacked.reshape(-1, stacked.shape[-1]), axis=0, return_inverse=True)
    removed = torch.from_numpy(different).reshape(-1, sight.side, sight.side)
    tokens = encode_occluded(vlm, sight.pixels, make_fill(vlm, sight.pixels, fill), removed)
    margins = token_margins(vlm, tokens, [text], [closed])[:, 0].double().numpy()
    return margins[place].reshape(stacked.shape[:3])


def margins_without_regions(
    vlm: Vlm, sight: Sight, fill: Fill, text: str, closed: bool, places: Sequence[Floats]
) -> Floats:
    """The margin without each of some places, each boxes [n, 4] in shares of the image: [places]."""
    masks = torch.from_numpy(np.stack([centres_in(boxes, sight.pixels.shape[1]) for boxes in places]))
    pixels = occlude(sight.pixels, make_fill(vlm, sight.pixels, fill), masks)
    return image_margins(vlm, pixels, [text], [closed])[:, 0].double().numpy()

"""Pictures as the vision tower takes them.

A level is the 8-bit value of a channel. The image processor of transformers scales a picture and then maps its levels
to numbers. Where many images are encoded, the host only scales them, and a table maps their levels on the tower's
device. The host then needs a tenth to a third of the time, and the numbers are those of the image processor.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.model.vlm import Vlm

LEVELS = 256
"""Levels of a channel of 8 bits."""


def pixels_of(vlm: Vlm, images: Sequence[Any], **steps: bool) -> Tensor:
    """The pixels of PIL images for the vision tower, as the processor prepares them: [b, 3, h, w].

    They are float32, or uint8 if `steps`, options of the processor, switch off rescaling and normalizing.
    """
    # No crops, whatever the configuration says: a call of the whole processor ignores it too, unless asked for crops.
    prepared = vlm.processor.image_processor(list(images), do_pan_and_scan=False, return_tensors="pt", **steps)
    return prepared["pixel_values"]


def levels_of(vlm: Vlm, images: Sequence[Any]) -> Tensor:
    """The levels of RGB images in the size that the vision tower takes: uint8 [b, 3, h, w]. `pixels_at` maps them."""
    return pixels_of(vlm, images, do_rescale=False, do_normalize=False)


def level_table(vlm: Vlm) -> Tensor:
    """The number to which the processor maps each level of each channel: [3, LEVELS].

    It is float32, or uint8 if the processor neither rescales nor normalizes.
    """
    from PIL import Image

    side = int(LEVELS**0.5)
    every = Image.fromarray(np.arange(LEVELS, dtype=np.uint8).reshape(side, side)).convert("RGB")
    return pixels_of(vlm, [every], do_resize=False)[0].flatten(1)


def pixels_at(levels: Tensor, table: Tensor) -> Tensor:
    """The pixels [b, 3, h, w] of levels uint8 [b, 3, h, w] by a table [3, LEVELS], in its dtype."""
    first = LEVELS * torch.arange(len(table), device=table.device, dtype=torch.int32)
    places = levels.int() + first[:, None, None]
    return table.flatten().index_select(0, places.flatten()).view(levels.shape)

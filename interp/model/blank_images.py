"""Blank images, which replace the true image to test whether an answer depends on it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from interp.images.decode import BLANK_IMAGE, open_image
from interp.model.image_tokens import MAX_WAITING_IMAGES, decoders, encode_images, encode_pixels
from interp.model.pixels import pixels_of
from interp.model.vlm import Vlm
from interp.runtime.prefetch import map_in

if TYPE_CHECKING:
    from PIL.Image import Image

BLANKS = {"grey": BLANK_IMAGE, "white": "<white>", "noise": "<noise>", "mean": "<mean>"}
"""Kind of blank image -> the name that replaces an image path, once `encode_blanks` has run.

grey: uniform mid-grey; white: uniform white; noise: uniform noise, independent for each pixel and channel; mean: the
mean of the images that are asked about.
"""
GAUSSIAN = "<gaussian>"
"""In place of an image path, once `encode_blanks` has run: Gaussian noise, 128 ± 64 in each pixel and channel of 224 x
224, as in the appendix of PSF-Med (arXiv 2602.21428)."""
ALL_BLANKS = BLANKS | {"gaussian": GAUSSIAN}
"""BLANKS, over which text-only agreement is averaged, and the published noise, which is reported on its own."""


def gaussian_image(seed: int) -> "Image":
    """The image of GAUSSIAN, RGB."""
    from PIL import Image

    noise = np.random.default_rng([seed, 19]).normal(128, 64, (224, 224, 3))
    return Image.fromarray(noise.clip(0, 255).round().astype(np.uint8))


@torch.no_grad()
def encode_blanks(vlm: Vlm, images: Sequence[str], seed: int) -> None:
    """Add the image tokens of every kind of blank image to `vlm.image_tokens`.

    `images` are the paths of the images whose mean is `mean`, and `seed` is that of the noise. Raises InputError for an
    unreadable image.
    """
    from PIL import Image

    encode_images(vlm, [BLANK_IMAGE])
    shape = pixels_of(vlm, [open_image(BLANK_IMAGE)]).shape[1:]
    different = sorted(set(images))
    total = torch.zeros(shape, dtype=torch.float64)
    for pixels in map_in(
        decoders(vlm.device), lambda path: pixels_of(vlm, [open_image(path)])[0], different, MAX_WAITING_IMAGES
    ):
        total += pixels.double()
    # The values to which the processor maps black and white.
    plain = [Image.new("RGB", (64, 64), (level,) * 3) for level in (0, 255)]
    low, high = pixels_of(vlm, plain).float()
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    blanks = {"white": high, "noise": low + noise * (high - low), "mean": (total / max(1, len(different))).float()}
    gaussian = pixels_of(vlm, [gaussian_image(seed)])
    # In a batch of its own: the digits of the others depend on what shares theirs.
    for names, pixels in (
        ([BLANKS[kind] for kind in blanks], torch.stack(list(blanks.values()))),
        ([GAUSSIAN], gaussian),
    ):
        encoded = encode_pixels(vlm.model, pixels.to(vlm.device, vlm.tower_dtype))
        vlm.image_tokens.update(zip(names, encoded.cpu(), strict=True))

"""Blank images, which replace the true image to test whether an answer depends on it."""

from collections.abc import Sequence

import torch

from interp.images.decode import BLANK_IMAGE, open_image
from interp.model.image_tokens import decoder_threads, encode_images, encode_pixels, pixels_of
from interp.model.vlm import Vlm
from interp.runtime.prefetch import map_ahead

BLANKS = {"grey": BLANK_IMAGE, "white": "<white>", "noise": "<noise>", "mean": "<mean>"}
"""Kind of blank image -> the name that replaces an image path, once `encode_blanks` has run.

grey: uniform mid-grey; white: uniform white; noise: uniform noise, independent for each pixel and channel; mean: the
mean of the images that are asked about.
"""


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
    for pixels in map_ahead(
        lambda path: pixels_of(vlm, [open_image(path)])[0], different, decoder_threads(vlm.device), max_waiting=32
    ):
        total += pixels.double()
    # The values to which the processor maps black and white.
    plain = [Image.new("RGB", (64, 64), (level,) * 3) for level in (0, 255)]
    low, high = pixels_of(vlm, plain).float()
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    blanks = {"white": high, "noise": low + noise * (high - low), "mean": (total / max(1, len(different))).float()}
    encoded = encode_pixels(vlm.model, torch.stack(list(blanks.values())).to(vlm.device, vlm.tower_dtype))
    vlm.image_tokens.update(zip((BLANKS[kind] for kind in blanks), encoded.cpu(), strict=True))

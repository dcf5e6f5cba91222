"""What the decoders of pictures and DICOM files share: grey values as a picture, and when an image cannot be used."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 2**25
"""Largest image that is decoded [pixels], twice the largest radiographs; scaling its grey values takes 400 MB."""
LEAST_CONTRAST = 1.0
"""Least standard deviation of a channel of an image that shows something [of 255 levels]; radiographs have about 60."""
MOST_OF_ONE_GREY = 0.999
"""Share of the pixels that may have the same grey: one damaged value of 1e30 makes all others black."""
SAMPLED = 4
"""Whether an image has contrast is first judged by every fourth row and column."""
OUTLYING = 0.01
"""Share of the pixels at either end of a range that may be damaged, or a mark on the film."""
LEAST_LEVELS = 32
"""Fewest grey levels [of 256] that all other pixels span where a picture is shown from its minimum to its maximum. One
pixel of 65535 leaves 16 levels to a radiograph of 12 bits."""
TOO_LARGE = f"an image of more than {MAX_PIXELS / 10**6:.0f} million pixels"


class UnreadableImageError(ValueError):
    """An image cannot be used. The message is a reason that can be counted, without the path."""


def refuse_large(width: int, height: int) -> None:
    """Raise UnreadableImageError for an image of more than MAX_PIXELS."""
    if width * height > MAX_PIXELS:
        raise UnreadableImageError(TOO_LARGE)


def grey_picture(values: NDArray, low: float | None = None, high: float | None = None, invert: bool = False) -> "Image":
    """Grey values [h, w] as an RGB picture, with `low` to `high` (by default their own range) mapped to 0 to 255.

    If `high` is below `low`, large values are dark. Raises UnreadableImageError for values that are not finite: they
    have no place in a range, and would turn the whole picture black. So would a few damaged pixels that make the range:
    with them, a picture without a range of its own is refused, because one that is guessed might hide what it shows.
    """
    from PIL import Image

    values, stretched = np.asarray(values, float), low is None and high is None
    low = float(values.min()) if low is None else low
    high = float(values.max()) if high is None else high
    span = high - low
    if not (np.isfinite(span) and np.isfinite(values).all()):
        raise UnreadableImageError("grey values that are not finite (NaN or infinity)")
    share = ((values - low) / (span or 1)).clip(0, 1)
    levels = np.rint(255 * (1 - share if invert else share)).astype(np.uint8)
    if stretched and span:
        _refuse_outlying(levels)
    return Image.fromarray(levels).convert("RGB")


def _refuse_outlying(levels: NDArray[np.uint8]) -> None:
    """Raise UnreadableImageError if the pixels without OUTLYING of them at either end span too few levels.

    The same holds of the pixels between black and white, if they are half of all: padding may be a third of a picture.
    """
    count = np.bincount(levels.ravel(), minlength=256)
    between = count.copy()
    between[[0, 255]] = 0
    for part in (count, between) if 2 * between.sum() >= levels.size else (count,):
        below = part.cumsum() / part.sum()
        least, most = np.searchsorted(below, (OUTLYING, 1 - OUTLYING), side="right")
        if most - least < LEAST_LEVELS:
            raise UnreadableImageError(
                "a few outlying grey values (damaged pixels, padding or a mark on the film), which would leave all "
                f"others fewer than {LEAST_LEVELS} of 256 levels; correct them, or save the image with 8 bits, or as "
                "DICOM with a window"
            )


def lacks_contrast(picture: "Image") -> bool:
    """Whether an RGB picture shows nothing: its pixels have one colour, or nearly so, or nearly all of them have."""
    from PIL.Image import Resampling

    # For nearly every picture a few pixels are enough, in a sixth of the time.
    width, height = picture.size
    few = picture.resize((max(1, width // SAMPLED), max(1, height // SAMPLED)), Resampling.NEAREST)
    return _may_lack_contrast(few, width * height) and _may_lack_contrast(picture)


def _may_lack_contrast(sample: "Image", pixels: int | None = None) -> bool:
    """Whether a picture of `pixels` pixels may lack contrast, judged by a `sample` of them, by default by all.

    False is certain; True is certain only if the sample is the whole picture. The picture's variance is at least the
    sample's times the sample's share of the pixels, and all other pixels may have the sample's most frequent grey.
    """
    from PIL import ImageStat

    known = sample.width * sample.height
    pixels = known if pixels is None else pixels
    if known * max(ImageStat.Stat(sample).var) < pixels * LEAST_CONTRAST**2:
        return True
    return pixels - known + max(sample.convert("L").histogram()) > MOST_OF_ONE_GREY * pixels

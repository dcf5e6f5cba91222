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
    have no place in a range, and would turn the whole picture black.
    """
    from PIL import Image

    values = np.asarray(values, float)
    low = float(values.min()) if low is None else low
    high = float(values.max()) if high is None else high
    span = high - low
    if not (np.isfinite(span) and np.isfinite(values).all()):
        raise UnreadableImageError("grey values that are not finite (NaN or infinity)")
    share = ((values - low) / (span or 1)).clip(0, 1)
    return Image.fromarray(np.rint(255 * (1 - share if invert else share)).astype(np.uint8)).convert("RGB")


def lacks_contrast(picture: "Image") -> bool:
    """Whether an RGB picture shows nothing: its pixels have one colour, or nearly so, or nearly all of them have."""
    from PIL import ImageStat

    if max(ImageStat.Stat(picture).var) < LEAST_CONTRAST**2:
        return True
    return max(picture.convert("L").histogram()) > MOST_OF_ONE_GREY * picture.width * picture.height

"""Decodes radiographs to 8-bit RGB: pictures of 8 or 16 bits, and DICOM files with their windowing.

Every image that the model sees, that boxes refer to or that a figure shows is decoded here. Pictures of 8 bits equal
those of `transformers.image_utils.load_image`, rotated as their EXIF orientation says.

Files may be hostile. Only a few formats are allowed, none of which starts another program (PIL hands EPS to
Ghostscript), and the size that a file claims is checked before anything is decompressed.
"""

from functools import cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from interp.images.dicom import decode_dicom, is_dicom
from interp.images.grey import TOO_LARGE, UnreadableImageError, grey_picture, lacks_contrast, refuse_large
from interp.runtime.errors import InputError
from interp.runtime.progress import notify

if TYPE_CHECKING:
    from PIL.Image import Image

BLANK_IMAGE = "<blank>"
"""In place of an image path: a uniform mid-grey image."""
NO_IMAGE = "<none>"
"""In place of an image path: no image, so the prompt is text only."""
PICTURE_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000", "AVIF")
"""Allowed picture formats by PIL's names."""
_LOADING = Lock()
"""Held while PIL loads what reads its formats."""
NO_CONTRAST = "an image without contrast (nearly a single colour), which shows nothing"
"""The reason why an import leaves out an image."""


def open_image(path: str) -> "Image":
    """The image, or BLANK_IMAGE, as a PIL picture in RGB. Raises InputError with the reason if it cannot be read."""
    from PIL import Image

    if path == BLANK_IMAGE:
        return Image.new("RGB", (512, 512), (128, 128, 128))
    try:
        picture = decode(Path(path))
    except UnreadableImageError as error:
        # The path may identify the patient, as in MIMIC-CXR.
        raise InputError(
            f"An image cannot be used: {error}. `interp import-questions QUESTIONS --format jsonl --images FOLDER "
            "--out NEW` leaves out its questions and names their rows."
        ) from None
    if lacks_contrast(picture):
        _warn_of_blank_images()
    return picture


def decode(path: Path) -> "Image":
    """Decode an image file completely, as 8-bit RGB, in the orientation in which it is to be displayed.

    Grey values of more than 8 bits are scaled from their minimum to their maximum, unless a DICOM file specifies how to
    display them. Raises UnreadableImageError if the file is not a readable single image, and if a few such values leave
    hardly any contrast to the others. Of a multi-picture JPEG (MPO) it is the first, of which the others are previews
    or other views.
    """
    if not path.is_file():
        raise UnreadableImageError("image not found")
    return decode_dicom(path) if is_dicom(path) else _picture(path)


@cache
def _warn_of_blank_images() -> None:
    """Warn once in a process, without the path, which may identify the patient."""
    notify(
        "warning: at least one image has no contrast (nearly a single colour), so it shows nothing. `interp "
        "import-questions QUESTIONS --format jsonl --images FOLDER --out NEW` leaves out its questions and names their "
        "rows."
    )


def _picture(path: Path) -> "Image":
    from PIL import Image, ImageFile, UnidentifiedImageError

    # Another library may have set it for the whole process; the missing part of an image would be grey.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    # Threads that import the same modules at the same time hold each other up, by half a second on some machines.
    with _LOADING:
        Image.init()
    # AVIF is missing in older versions of PIL.
    formats = [name for name in PICTURE_FORMATS if name in Image.OPEN]
    try:
        # PIL maps a named file into memory, and then misplaces the pixels of a TIFF file with an orientation.
        with path.open("rb") as file, Image.open(file, formats=formats) as picture:
            refuse_large(*picture.size)
            frames = getattr(picture, "n_frames", 1)
            if frames > 1 and picture.format != "MPO":
                raise UnreadableImageError(f"not a single image but {frames} frames")
            raw_modes = " ".join(str(tile[3]) for tile in picture.tile)
            if "LA;16" in raw_modes:
                raise UnreadableImageError(
                    "grey values of 16 bits with transparency, of which only the upper 8 bits would be read; "
                    "save it without transparency"
                )
            picture.load()
            # In TIFF, a PhotometricInterpretation of 0 means that large values are dark.
            dark = getattr(picture, "tag_v2", {}).get(262) == 0
            if ";16" in raw_modes and picture.mode.startswith("RGB") and np.asarray(picture)[..., :3].max() < 16:
                raise UnreadableImageError(
                    "colours of 16 bits that use the lower 12 only and would be nearly black; save it with 8 bits"
                )
            upright = _upright(picture)
            if upright.mode.startswith(("I", "F")):
                # PIL's own conversion clips everything above 255.
                return grey_picture(np.asarray(upright).astype(float), invert=dark)
            return upright.convert("RGB")
    except UnreadableImageError:
        raise
    except Image.DecompressionBombError:
        raise UnreadableImageError(TOO_LARGE) from None
    except UnidentifiedImageError:
        raise UnreadableImageError(
            f"not a readable image (damaged, or none of {', '.join(formats)} and DICOM)"
        ) from None
    # Decoders raise errors of any kind for damaged files.
    except Exception as error:
        # Some of PIL's messages contain the path.
        what = "truncated" if "truncated" in str(error).lower() else "damaged or not an image"
        raise UnreadableImageError(f"not a readable image ({what})") from None


def _upright(picture: "Image") -> "Image":
    """The picture in the orientation that its EXIF or XMP data give for its display."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(picture)
    except Exception:
        raise UnreadableImageError("EXIF data that are damaged, so the orientation is unknown") from None

"""Decodes radiographs to 8-bit RGB: pictures of 8 or 16 bits, and DICOM files with their windowing.

Files may be hostile. Only a few formats are allowed, none of which starts another program (PIL hands EPS to
Ghostscript), and the size that a file claims is checked before anything is decompressed.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from interp.runtime.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image
    from pydicom import Dataset

BLANK_IMAGE = "<blank>"
"""In place of an image path: a uniform mid-grey image."""
NO_IMAGE = "<none>"
"""In place of an image path: no image, so the prompt is text only."""
DICOM_ENDINGS = (".dcm", ".dicom", ".dic")
PICTURE_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP")
"""Allowed picture formats by PIL's names."""
MAX_PIXELS = 2**25
"""Largest image that is decoded [pixels], twice the largest radiographs; scaling its grey values takes 400 MB."""
TOO_LARGE = f"an image of more than {MAX_PIXELS / 10**6:.0f} million pixels"


class UnreadableImageError(ValueError):
    """An image cannot be used. The message is a reason that can be counted, without the path."""


def open_image(path: str) -> "Image":
    """The image, or BLANK_IMAGE, as a PIL picture in RGB. Raises InputError with the reason if it cannot be read."""
    from PIL import Image

    if path == BLANK_IMAGE:
        return Image.new("RGB", (512, 512), (128, 128, 128))
    try:
        return decode(Path(path))
    except UnreadableImageError as error:
        # The path may identify the patient, as in MIMIC-CXR.
        raise InputError(
            f"An image cannot be used: {error}. `interp import-questions QUESTIONS --format jsonl --images FOLDER "
            "--out NEW` leaves out its questions and names their rows."
        ) from None


def decode(path: Path) -> "Image":
    """Decode an image file completely, as 8-bit RGB.

    Grey values of more than 8 bits are scaled from their minimum to their maximum, unless a DICOM file specifies how to
    display them. Raises UnreadableImageError if the file is not a readable single-frame image.
    """
    if not path.is_file():
        raise UnreadableImageError("image not found")
    return _dicom(path) if _is_dicom(path) else _picture(path)


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM" or path.suffix.lower() in DICOM_ENDINGS


def _picture(path: Path) -> "Image":
    from PIL import Image

    try:
        with Image.open(path, formats=PICTURE_FORMATS) as picture:
            _refuse_large(*picture.size)
            frames = getattr(picture, "n_frames", 1)
            if frames > 1:
                raise UnreadableImageError(f"not a single image but {frames} frames")
            picture.load()
            if picture.mode.startswith(("I", "F")):
                # PIL's own conversion clips everything above 255.
                return _grey(np.asarray(picture).astype(float))
            return picture.convert("RGB")
    except UnreadableImageError:
        raise
    except Image.DecompressionBombError:
        raise UnreadableImageError(TOO_LARGE) from None
    # Decoders raise errors of any kind for damaged files.
    except Exception as error:
        # Some of PIL's messages contain the path.
        what = "truncated" if "truncated" in str(error) else "damaged or not an image"
        raise UnreadableImageError(f"not a readable image ({what})") from None


def _dicom(path: Path) -> "Image":
    from PIL import Image
    from pydicom.pixels import apply_color_lut

    data = _dataset(path)
    try:
        # pydicom converts YBR to RGB.
        pixels = data.pixel_array
        colours = data.get("PhotometricInterpretation", "MONOCHROME2")
        bits = int(data.get("BitsStored", 8))
        if colours == "PALETTE COLOR":
            pixels = apply_color_lut(pixels, data)
            bits = 8 * pixels.itemsize
        elif data.get("SamplesPerPixel", 1) == 1:
            return _grey(*_display_values(data, pixels), invert=colours == "MONOCHROME1")
        return Image.fromarray((pixels >> max(0, bits - 8)).astype(np.uint8)).convert("RGB")
    except (RuntimeError, NotImplementedError):
        raise UnreadableImageError(
            f"DICOM pixels that cannot be decoded ({_syntax_name(data)}); `pip install 'pylibjpeg[all]'` may help"
        ) from None
    except Exception:
        raise UnreadableImageError("DICOM pixels that are truncated or damaged") from None


def _dataset(path: Path) -> "Dataset":
    """A DICOM file with a single image of acceptable size, whose pixels are not yet decoded."""
    from pydicom import dcmread
    from pydicom.filereader import read_file_meta_info
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    try:
        # pydicom would decompress the whole file, whatever its size.
        if read_file_meta_info(path).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            raise UnreadableImageError("a deflated DICOM file")
        data = dcmread(path)
        if "PixelData" not in data:
            raise UnreadableImageError("a DICOM file without pixel data")
        frames = int(data.get("NumberOfFrames") or 1)
        if frames > 1:
            raise UnreadableImageError(f"not a single image but {frames} frames")
        _refuse_large(int(data.get("Rows") or 0), int(data.get("Columns") or 0))
        return data
    except UnreadableImageError:
        raise
    # pydicom reads elements lazily and raises errors of any kind for damaged files.
    except Exception:
        raise UnreadableImageError("not a readable DICOM file") from None


def _syntax_name(data: "Dataset") -> str:
    """The name of the file's compression from pydicom's own list, so that no text of the file is repeated."""
    from pydicom.uid import UID_dictionary

    syntax = str(getattr(getattr(data, "file_meta", None), "TransferSyntaxUID", ""))
    return UID_dictionary[syntax][0] if syntax in UID_dictionary else "an unknown transfer syntax"


def _refuse_large(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UnreadableImageError(TOO_LARGE)


def _display_values(data: "Dataset", pixels: NDArray) -> tuple[NDArray, float | None, float | None]:
    """Grey values [h, w] after the modality and VOI transformations (DICOM PS3.3 C.11.1, C.11.2), and their range.

    The range (low, high) is None if the file specifies no window; then it is that of the pixels without padding.
    """
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    grey = apply_modality_lut(pixels, data)
    table = (data.get("VOILUTSequence") or [None])[0]
    if table is not None and table.get("LUTDescriptor") and table.get("LUTData"):
        length, first, _ = table.LUTDescriptor
        mapped = first + np.arange(length or 2**16)
        ends = apply_voi_lut(mapped, data)
        # pydicom would look values up modulo 256 in a table of 8 bits.
        inside = np.rint(grey).clip(mapped[0], mapped[-1]).astype(np.int64)
        return apply_voi_lut(inside, data), float(ends.min()), float(ends.max())
    # Either element may be present without a value.
    if all(data.get(name) not in (None, "") for name in ("WindowCenter", "WindowWidth")):
        # Values far below and far above the window give the ends of the display range.
        ends = apply_voi_lut(np.array([-(2**30), 2**30]), data)
        return apply_voi_lut(grey, data), float(ends.min()), float(ends.max())
    if "PixelPaddingValue" in data:
        kept = grey[pixels != data.PixelPaddingValue]
        if kept.size:
            return grey.clip(kept.min(), kept.max()), None, None
    return grey, None, None


def _grey(values: NDArray, low: float | None = None, high: float | None = None, invert: bool = False) -> "Image":
    """Grey values [h, w] as an RGB picture, with `low` to `high` (by default their own range) mapped to 0 to 255."""
    from PIL import Image

    values = np.asarray(values, float)
    low = float(values.min()) if low is None else low
    high = float(values.max()) if high is None else high
    share = ((values - low) / max(high - low, 1e-9)).clip(0, 1)
    return Image.fromarray(np.rint(255 * (1 - share if invert else share)).astype(np.uint8)).convert("RGB")

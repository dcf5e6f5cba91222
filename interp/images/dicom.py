"""Decodes DICOM files to 8-bit RGB, displayed as the file specifies: rescale, window or lookup table, and padding.

Sections of the DICOM standard, part 3: C.11.1 (modality transformation), C.11.2 (VOI transformation: window or table),
C.7.5.1.1.2 (padding).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from interp.images.grey import UnreadableImageError, grey_picture, lacks_contrast, refuse_large

if TYPE_CHECKING:
    from PIL.Image import Image
    from pydicom import Dataset

DICOM_ENDINGS = (".dcm", ".dicom", ".dic")
LEAST_WIDTH = {"LINEAR": 1.0, "LINEAR_EXACT": np.nextafter(0, 1), "SIGMOID": np.nextafter(0, 1)}
"""VOI LUT function -> least WindowWidth that the standard allows; a smaller one is no window."""


def is_dicom(path: Path) -> bool:
    """Whether a file is a DICOM file by its content or, as some have no preamble, by its name."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM" or path.suffix.lower() in DICOM_ENDINGS


def decode_dicom(path: Path) -> "Image":
    """Decode a DICOM file as 8-bit RGB. Raises UnreadableImageError if it is not a single image that can be shown."""
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
            picture = grey_picture(*_display_values(data, pixels), invert=colours == "MONOCHROME1")
            if lacks_contrast(picture) and pixels.min() != pixels.max():
                raise UnreadableImageError(
                    "a DICOM file whose window, rescale, lookup table, padding or outlying values leave no contrast"
                )
            return picture
        return Image.fromarray((pixels >> max(0, bits - 8)).astype(np.uint8)).convert("RGB")
    except UnreadableImageError:
        raise
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
    from pydicom.uid import (
        DeflatedExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
    )

    try:
        # pydicom would decompress the whole file, whatever its size.
        if read_file_meta_info(path).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            raise UnreadableImageError("a deflated DICOM file")
        data = dcmread(path)
        if "TransferSyntaxUID" not in data.file_meta:
            # Some programs that remove identities remove it too.
            implicit, little = data.original_encoding
            native = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
            data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else native
        if "PixelData" not in data:
            raise UnreadableImageError("a DICOM file without pixel data")
        frames = int(data.get("NumberOfFrames") or 1)
        if frames > 1:
            raise UnreadableImageError(f"not a single image but {frames} frames")
        refuse_large(int(data.get("Rows") or 0), int(data.get("Columns") or 0))
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


def _display_values(data: "Dataset", pixels: NDArray) -> tuple[NDArray, float | None, float | None]:
    """Grey values [h, w] after the modality and VOI transformations, and the values shown as darkest and as brightest.

    The range is None if the file specifies no window and no table; then it is that of the pixels without padding.
    """
    from pydicom.pixels import apply_modality_lut, apply_windowing

    _complete_rescale(data)
    # With narrow integers, pydicom fails on a table that is longer than their range.
    grey = apply_modality_lut(pixels.astype(np.int64) if data.get("ModalityLUTSequence") else pixels, data)
    table = (data.get("VOILUTSequence") or [None])[0]
    if table is not None and table.get("LUTDescriptor") and table.get("LUTData"):
        first, entries = _table(data, table)
        index = np.rint(grey).clip(first, first + len(entries) - 1).astype(np.int64) - first
        return entries[index], float(entries.min()), float(entries.max())
    window = _first_window(data)
    if window is not None:
        # Values far below and far above the window show what is dark and what is bright. pydicom swaps them if the
        # slope is negative, although the window applies to the rescaled values.
        dark, bright = apply_windowing(np.array([-(2**30), 2**30]), data, window)
        return apply_windowing(grey, data, window), float(dark), float(bright)
    kept = grey[~_padding(data, pixels)]
    if kept.size:
        return grey.clip(kept.min(), kept.max()), None, None
    return grey, None, None


def _complete_rescale(data: "Dataset") -> None:
    """Set the slope to 1 or the intercept to 0 if only the other has a value; remove both if neither has one."""
    values = {"RescaleSlope": data.get("RescaleSlope"), "RescaleIntercept": data.get("RescaleIntercept")}
    empty = [name for name, value in values.items() if value in (None, "")]
    for name in empty:
        if len(empty) == 1:
            setattr(data, name, "1" if name == "RescaleSlope" else "0")
        elif name in data:
            delattr(data, name)


def _table(data: "Dataset", item: "Dataset") -> tuple[int, NDArray]:
    """The value of a lookup table's first entry, and its entries [n]."""
    length, first, _ = item.LUTDescriptor
    length = length or 2**16
    content = item.LUTData
    if isinstance(content, bytes):
        order = "<" if data.file_meta.TransferSyntaxUID.is_little_endian else ">"
        # Entries of 8 bits may be stored two to a word.
        content = np.frombuffer(content, f"{order}u2" if len(content) >= 2 * length else "u1")
    return int(first), np.atleast_1d(np.asarray(content)).astype(np.int64)[:length]


def _first_window(data: "Dataset") -> int | None:
    """The index of the first window that the standard allows; None if the file has none.

    Without a window, the standard leaves the display to the reader. Some files have an empty one, or a width of 0.
    """
    # Either element may be present without a value.
    centres, widths = (_listed(data.get(name)) for name in ("WindowCenter", "WindowWidth"))
    function = str(data.get("VOILUTFunction") or "LINEAR").upper()
    if function not in LEAST_WIDTH:
        raise UnreadableImageError("a DICOM file with an unknown VOI LUT function")
    data.VOILUTFunction = function
    for index, (centre, width) in enumerate(zip(centres, widths, strict=False)):
        if np.isfinite([centre, width]).all() and width >= LEAST_WIDTH[function]:
            return index
    return None


def _listed(value: Any) -> list[float]:
    """The numbers of an element with none, one or several values; NaN for an empty one among several."""
    if value in (None, ""):
        return []
    several = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return [float("nan") if number in (None, "") else float(number) for number in several]


def _padding(data: "Dataset", pixels: NDArray) -> NDArray[np.bool_]:
    """Which stored pixels [h, w] are padding: PixelPaddingValue, or all values from there to PixelPaddingRangeLimit."""
    value = data.get("PixelPaddingValue")
    if value is None:
        return np.zeros(pixels.shape, bool)
    limit = data.get("PixelPaddingRangeLimit")
    ends = [int(value), int(value if limit is None else limit)]
    if pixels.dtype.kind == "i":
        # A padding of signed pixels is often stored as unsigned; the bits are the same.
        bits = 8 * pixels.itemsize
        ends = [end - 2**bits if end >= 2 ** (bits - 1) else end for end in ends]
    return (pixels >= min(ends)) & (pixels <= max(ends))

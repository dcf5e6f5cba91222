"""Decoding images: each is shown as its file specifies, or refused with a reason that names no patient."""

import numpy as np
import pytest
from dicoms import write_dicom
from PIL import Image
from pydicom import Dataset, Sequence, dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGLosslessSV1

from interp.images.decode import decode, open_image
from interp.images.grey import UnreadableImageError
from interp.runtime.errors import InputError

RAMP = np.linspace(0, 4095, 64 * 48).reshape(64, 48).round().astype(int)


def grey(path) -> np.ndarray:
    pixels = np.asarray(decode(path)).astype(int)
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


def test_png_and_jpeg_of_eight_bits_are_as_pil_shows_them(tmp_path):
    pixels = (RAMP / 16).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels).save(tmp_path / "a.jpg")
    assert (grey(tmp_path / "a.png") == pixels).all()
    assert (grey(tmp_path / "a.jpg") == np.asarray(Image.open(tmp_path / "a.jpg"))).all()
    assert decode(tmp_path / "a.png").mode == "RGB"


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    Image.fromarray((RAMP * 8 + 100).astype(np.uint16)).save(tmp_path / "a.png")
    shown = grey(tmp_path / "a.png")
    # (v - min) / (max - min) * 255; PIL's own conversion would give 255 nearly everywhere.
    assert np.abs(shown - RAMP / 4095 * 255).max() <= 0.5
    assert shown.min() == 0
    assert shown.max() == 255


def test_a_window_is_the_standards_linear_function(tmp_path):
    center, width = 2000, 1000
    path = write_dicom(tmp_path / "a.dcm", RAMP, WindowCenter=center, WindowWidth=width)
    # DICOM PS3.3 C.11.2.1.2.1
    expected = (((RAMP - (center - 0.5)) / (width - 1) + 0.5) * 255).clip(0, 255)
    assert np.abs(grey(path) - expected).max() <= 0.51


def test_a_window_wider_than_the_pixels_is_not_stretched(tmp_path):
    narrow = RAMP // 4 + 1000
    path = write_dicom(tmp_path / "a.dcm", narrow, WindowCenter=2048, WindowWidth=4096)
    expected = ((narrow - 2047.5) / 4095 + 0.5) * 255
    assert np.abs(grey(path) - expected).max() <= 0.51


def test_the_window_applies_after_the_rescale(tmp_path):
    path = write_dicom(
        tmp_path / "a.dcm", RAMP, WindowCenter=3000, WindowWidth=2000, RescaleSlope=2, RescaleIntercept=-1000
    )
    expected = (((2 * RAMP - 1000 - 2999.5) / 1999 + 0.5) * 255).clip(0, 255)
    assert np.abs(grey(path) - expected).max() <= 0.51


def test_monochrome1_is_inverted(tmp_path):
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    bright = grey(write_dicom(tmp_path / "a.dcm", RAMP, **window))
    dark = grey(write_dicom(tmp_path / "b.dcm", RAMP, photometric="MONOCHROME1", **window))
    assert np.abs(bright + dark - 255).max() <= 1
    assert dark[0, 0] == 255


@pytest.mark.parametrize("empty", [{"WindowCenter": None, "WindowWidth": None}, {"WindowCenter": 2048}])
def test_a_window_without_a_value_is_ignored(tmp_path, empty):
    plain, with_tag = write_dicom(tmp_path / "a.dcm", RAMP), write_dicom(tmp_path / "b.dcm", RAMP, **empty)
    assert (grey(plain) == grey(with_tag)).all()
    assert grey(plain).std() > 50


@pytest.mark.parametrize(
    ("first", "length", "bits"),
    [(0, 4096, 12), (0, 4096, 16), (1, 4095, 12), (500, 3000, 16), (0, 256, 8), (100, 200, 8)],
)
def test_a_lookup_table_is_read_entry_by_entry(tmp_path, first, length, bits):
    entries = np.rint((np.arange(length) / (length - 1)) ** 2 * (2**bits - 1)).astype(int)
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [length, first, bits])
    table.add_new("LUTData", "US", entries.tolist())
    path = write_dicom(tmp_path / "a.dcm", RAMP, VOILUTSequence=Sequence([table]))
    # DICOM PS3.3 C.11.2.1.1: values outside the table are shown as its first or last entry.
    expected = entries[(RAMP - first).clip(0, length - 1)] / (2**bits - 1) * 255
    assert np.abs(grey(path) - expected).max() <= 0.51


def test_without_a_window_the_pixel_range_without_padding_is_shown(tmp_path):
    padded = RAMP // 4 + 1000
    padded[0] = 4095
    path = write_dicom(tmp_path / "a.dcm", padded, PixelPaddingValue=4095)
    inside = padded[1:]
    expected = (inside - inside.min()) / (inside.max() - inside.min()) * 255
    assert np.abs(grey(path)[1:] - expected).max() <= 0.51


def test_a_dicom_file_is_recognized_by_its_content(tmp_path):
    write_dicom(tmp_path / "a.dcm", RAMP).rename(tmp_path / "image_without_ending")
    assert grey(tmp_path / "image_without_ending").max() == 255


def test_colour_dicom(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3))
    path = write_dicom(tmp_path / "a.dcm", pixels, bits=8, photometric="RGB")
    assert (np.asarray(decode(path)) == pixels).all()


def test_colour_of_16_bits_keeps_the_upper_8(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 2**16, (20, 30, 3))
    path = write_dicom(tmp_path / "a.dcm", pixels, bits=16, photometric="RGB")
    assert (np.asarray(decode(path)) == pixels // 256).all()


def test_grey_stored_as_ybr_stays_grey(tmp_path):
    brightness = np.arange(240).reshape(12, 20)
    pixels = np.stack([brightness, np.full_like(brightness, 128), np.full_like(brightness, 128)], -1)
    path = write_dicom(tmp_path / "a.dcm", pixels, bits=8, photometric="YBR_FULL")
    assert (np.asarray(decode(path)) == brightness[..., None]).all()


def test_a_palette_is_looked_up(tmp_path):
    palette = np.random.default_rng(0).integers(0, 2**16, (256, 3))
    index = np.random.default_rng(1).integers(0, 256, (12, 20))
    tags = {}
    for k, name in enumerate(("Red", "Green", "Blue")):
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        tags[f"{name}PaletteColorLookupTableData"] = palette[:, k].astype("<u2").tobytes()
    path = write_dicom(tmp_path / "a.dcm", index, bits=8, photometric="PALETTE COLOR", **tags)
    assert (np.asarray(decode(path)) == palette[index] // 256).all()


def _truncated(path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 200), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:3000])


def _frames(path):
    pictures = [Image.fromarray(np.full((9, 9), v, np.uint8)) for v in (1, 200)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:])


BAD = {
    "truncated.jpg": (_truncated, "not a readable image .truncated"),
    "truncated.png": (_truncated, "not a readable image"),
    "text.png": (lambda path: path.write_text("hello"), "not a readable image"),
    "frames.tif": (_frames, "not a single image but 2 frames"),
    "no_pixels.dcm": (lambda path: write_dicom(path, None), "without pixel data"),
    "frames.dcm": (lambda path: write_dicom(path, np.stack([RAMP] * 3), NumberOfFrames=3), "but 3 frames"),
    "short.dcm": (lambda path: write_dicom(path, RAMP, PixelData=b"\0" * 100), "truncated or damaged"),
    "text.dcm": (lambda path: path.write_text("hello" * 100), "not a readable DICOM"),
    "absent.png": (lambda path: None, "image not found"),
}


@pytest.mark.parametrize("name", BAD)
def test_an_unreadable_or_multi_frame_image_is_refused(tmp_path, name):
    write, reason = BAD[name]
    write(tmp_path / name)
    with pytest.raises(UnreadableImageError, match=reason) as caught:
        decode(tmp_path / name)
    assert str(tmp_path) not in str(caught.value)
    assert "Doe" not in str(caught.value)
    with pytest.raises(InputError, match=f"{reason}.*import-questions.*names their rows") as caught:
        open_image(str(tmp_path / name))
    assert str(tmp_path) not in str(caught.value)


def test_an_unsupported_compression_is_named(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", RAMP)
    data = dcmread(path)
    data.PixelData = encapsulate([b"\0" * 64])
    data.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    data.save_as(path)
    with pytest.raises(UnreadableImageError, match=r"cannot be decoded \(JPEG Lossless.*pylibjpeg"):
        decode(path)

"""Decoding images: each is shown as its file specifies, or refused with a reason that names no patient."""

import numpy as np
import pytest
from dicoms import write_dicom
from PIL import Image
from pydicom import Dataset, Sequence, dcmread
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import JPEGLosslessSV1

from interp.images.decode import _warn_of_blank_images, decode, open_image
from interp.images.grey import UnreadableImageError, lacks_contrast
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


def by_pydicom(path) -> np.ndarray:
    """The grey values that pydicom gives after its modality and VOI transformations, mapped to 0 to 255."""
    data = dcmread(path)
    values = apply_modality_lut(data.pixel_array, data)
    low, high = apply_voi_lut(np.array([-(2.0**30), 2.0**30]), data)
    shares = (apply_voi_lut(values, data) - low) / (high - low)
    return 255 * (1 - shares if data.PhotometricInterpretation == "MONOCHROME1" else shares)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("rescale", [(1, 0), (2.5, -1000), (0.5, 300)])
@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("window", [(2000, 1000), (900, 1), (1500, 9000), ([2000, 10], [700, 3])])
def test_windows_equal_those_of_pydicom(tmp_path, photometric, rescale, function, window):
    tags = {"WindowCenter": window[0], "WindowWidth": window[1]}
    tags |= {"RescaleSlope": rescale[0], "RescaleIntercept": rescale[1]}
    tags |= {} if function is None else {"VOILUTFunction": function}
    path = write_dicom(tmp_path / "a.dcm", RAMP, photometric=photometric, **tags)
    assert np.abs(grey(path) - by_pydicom(path)).max() <= 0.51


@pytest.mark.parametrize("slope", [1, -1])
@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("LINEAR", lambda x: (x - 1999.5) / 999 + 0.5),
        ("linear ", lambda x: (x - 1999.5) / 999 + 0.5),
        ("", lambda x: (x - 1999.5) / 999 + 0.5),
        ("LINEAR_EXACT", lambda x: (x - 2000) / 1000 + 0.5),
        ("SIGMOID", lambda x: 1 / (1 + np.exp(-4 * (x - 2000) / 1000))),
    ],
)
def test_voi_functions_are_those_of_the_standard(tmp_path, function, expected, slope):
    """DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3. pydicom shows windows inverted if the slope is negative."""
    rescale = {"RescaleSlope": slope, "RescaleIntercept": 0 if slope == 1 else 4095}
    path = write_dicom(
        tmp_path / "a.dcm", RAMP, WindowCenter=2000, WindowWidth=1000, VOILUTFunction=function, **rescale
    )
    values = RAMP if slope == 1 else 4095 - RAMP
    assert np.abs(grey(path) - 255 * expected(values).clip(0, 1)).max() <= 0.51


def test_an_unknown_voi_function_is_refused(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", RAMP, WindowCenter=2000, WindowWidth=1000, VOILUTFunction="CUBIC")
    with pytest.raises(UnreadableImageError, match="unknown VOI LUT function"):
        decode(path)


@pytest.mark.parametrize(
    ("centre", "width", "function"),
    [
        (2000, 0, "LINEAR"),
        (2000, -400, "LINEAR"),
        (2000, 0.5, "LINEAR"),
        (2000, 0, "LINEAR_EXACT"),
        (2000, -1, "SIGMOID"),
        ("nan", 100, "LINEAR"),
        (2000, "inf", "LINEAR"),
        ([2000, 3000], [0, -5], "LINEAR"),
    ],
)
def test_a_window_that_the_standard_forbids_is_none(tmp_path, centre, width, function):
    window = {"WindowCenter": centre, "WindowWidth": width, "VOILUTFunction": function}
    shown = grey(write_dicom(tmp_path / "a.dcm", RAMP // 2, **window))
    assert (shown == grey(write_dicom(tmp_path / "b.dcm", RAMP // 2))).all()
    assert shown.max() == 255


def test_the_first_valid_window_is_used(tmp_path):
    several = write_dicom(tmp_path / "a.dcm", RAMP, WindowCenter=[2000, 1000, 500], WindowWidth=[0, 800, 100])
    one = write_dicom(tmp_path / "b.dcm", RAMP, WindowCenter=1000, WindowWidth=800)
    assert (grey(several) == grey(one)).all()


BLANK = "window, rescale, lookup table, padding or outlying values leave no contrast"


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    "tags",
    [
        {"WindowCenter": 60000, "WindowWidth": 10},
        {"WindowCenter": -60000, "WindowWidth": 10},
        {"WindowCenter": -60000, "WindowWidth": 10, "VOILUTFunction": "SIGMOID"},
        {"WindowCenter": 0, "WindowWidth": "1e12"},
        {"WindowCenter": 0, "WindowWidth": "1e6"},
        {"RescaleSlope": 0, "RescaleIntercept": 5},
        {"RescaleSlope": 0, "RescaleIntercept": 5, "WindowCenter": 5, "WindowWidth": 100},
        {"RescaleSlope": 1, "RescaleIntercept": -50000, "WindowCenter": 2000, "WindowWidth": 1000},
    ],
)
def test_settings_that_show_nothing_are_refused(tmp_path, photometric, tags):
    with pytest.raises(UnreadableImageError, match=BLANK):
        decode(write_dicom(tmp_path / "a.dcm", RAMP, photometric=photometric, **tags))


def lookup_table(entries, first: int, bits: int, stored: str = "US") -> Sequence:
    """A sequence of one lookup table; `entries` are bytes if they are stored as words (OW)."""
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [len(entries), first, bits])
    table.add_new("LUTData", stored, entries)
    return Sequence([table])


def test_a_table_of_one_value_or_beside_the_pixels_is_refused(tmp_path):
    for table in (lookup_table([7] * 4096, 0, 8), lookup_table(list(range(256)), 5000, 8)):
        with pytest.raises(UnreadableImageError, match=BLANK):
            decode(write_dicom(tmp_path / "a.dcm", RAMP, VOILUTSequence=table))


@pytest.mark.parametrize("window", [{}, {"WindowCenter": 2000, "WindowWidth": 1000}])
@pytest.mark.parametrize("rescale", [("nan", 0), (1, "nan"), ("inf", 0)])
def test_a_rescale_that_is_not_finite_is_refused(tmp_path, window, rescale):
    path = write_dicom(tmp_path / "a.dcm", RAMP, RescaleSlope=rescale[0], RescaleIntercept=rescale[1], **window)
    with pytest.raises(UnreadableImageError, match="not finite"):
        decode(path)


@pytest.mark.parametrize(
    ("rescale", "factor", "offset"),
    [
        ({"RescaleSlope": None, "RescaleIntercept": None}, 1, 0),
        ({"RescaleSlope": 2, "RescaleIntercept": None}, 2, 0),
        ({"RescaleSlope": None, "RescaleIntercept": -700}, 1, -700),
        ({"RescaleSlope": 2}, 2, 0),
        ({"RescaleIntercept": -700}, 1, -700),
    ],
)
def test_a_rescale_without_a_value_is_completed(tmp_path, rescale, factor, offset):
    path = write_dicom(tmp_path / "a.dcm", RAMP, WindowCenter=1500, WindowWidth=2000, **rescale)
    expected = (factor * RAMP + offset - 1499.5) / 1999 + 0.5
    assert np.abs(grey(path) - 255 * expected.clip(0, 1)).max() <= 0.51


def test_a_damaged_pixel_is_refused_unless_a_window_leaves_it_out(tmp_path):
    pixels = np.tile(RAMP // 16, (8, 8))
    pixels[3, 3] = 4095
    with pytest.raises(UnreadableImageError, match="a few outlying grey values"):
        decode(write_dicom(tmp_path / "a.dcm", pixels))
    assert grey(write_dicom(tmp_path / "b.dcm", pixels, WindowCenter=128, WindowWidth=256)).max() == 255


def test_a_negative_slope_inverts_without_a_window(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", RAMP, RescaleSlope=-1, RescaleIntercept=4095)
    assert np.abs(grey(path) - (1 - RAMP / 4095) * 255).max() <= 0.51


@pytest.mark.parametrize(
    ("value", "limit", "padded"),
    [
        (3900, 4095, RAMP >= 3900),
        (4095, 3900, RAMP >= 3900),
        (0, 200, RAMP <= 200),
        (200, 0, RAMP <= 200),
        (4095, 4095, RAMP == 4095),
        (4095, None, RAMP == 4095),
    ],
)
def test_a_range_of_padding_does_not_count(tmp_path, value, limit, padded):
    """DICOM PS3.3 C.7.5.1.1.2: both ends are padding, and either may be the smaller one."""
    tags = {"PixelPaddingValue": value} | ({} if limit is None else {"PixelPaddingRangeLimit": limit})
    inside = RAMP[~padded]
    expected = ((RAMP - inside.min()) / (inside.max() - inside.min()) * 255).clip(0, 255)
    assert np.abs(grey(write_dicom(tmp_path / "a.dcm", RAMP, **tags)) - expected).max() <= 0.51


def test_padding_of_signed_pixels(tmp_path):
    signed = (RAMP - 2000).astype(np.int16)
    signed[:3] = -30000
    path = write_dicom(tmp_path / "a.dcm", signed.view(np.uint16), bits=16)
    data = dcmread(path)
    data.PixelRepresentation = 1
    # Stored as unsigned, as some devices do; the bits are the same.
    data.add_new("PixelPaddingValue", "US", 2**16 - 30000)
    data.save_as(path)
    inside = signed[3:].astype(int)
    expected = (inside - inside.min()) / (inside.max() - inside.min()) * 255
    assert np.abs(grey(path)[3:] - expected).max() <= 0.51
    assert (grey(path)[:3] == 0).all()


def test_a_padding_beyond_the_range_of_the_pixels_is_none(tmp_path):
    pixels = RAMP // 16
    path = write_dicom(tmp_path / "a.dcm", pixels, bits=8, PixelPaddingValue=2**16 - 1)
    assert (grey(path) == pixels).all()


def test_an_image_of_one_value_lacks_contrast(tmp_path):
    alone = np.full((9, 8), 77)
    for tags in ({}, {"PixelPaddingValue": 77}, {"WindowCenter": 77, "WindowWidth": 100}):
        assert lacks_contrast(decode(write_dicom(tmp_path / "a.dcm", alone, **tags)))
    assert lacks_contrast(decode(write_dicom(tmp_path / "a.dcm", np.full((9, 8, 3), 77), bits=8, photometric="RGB")))
    with pytest.raises(UnreadableImageError, match=BLANK):
        decode(write_dicom(tmp_path / "a.dcm", np.where(RAMP < 2000, 4095, 77), PixelPaddingValue=4095))


def test_an_image_that_one_damaged_value_darkens_is_refused(tmp_path):
    values = np.random.default_rng(0).normal(100, 20, (64, 64)).astype(np.float32)
    Image.fromarray(values).save(tmp_path / "a.tiff")
    assert not lacks_contrast(decode(tmp_path / "a.tiff"))
    values[5, 7] = 1e30
    Image.fromarray(values).save(tmp_path / "b.tiff")
    with pytest.raises(InputError, match=r"a few outlying grey values.*names their rows"):
        open_image(str(tmp_path / "b.tiff"))
    Image.fromarray(np.full((64, 64), 1e30, np.float32)).save(tmp_path / "c.tiff")
    assert lacks_contrast(decode(tmp_path / "c.tiff"))


@pytest.mark.parametrize(("first", "bits"), [(0, 8), (100, 8), (0, 12), (300, 12)])
def test_a_modality_table_may_be_longer_than_the_range_of_the_pixels(tmp_path, first, bits):
    pixels = RAMP if bits == 12 else RAMP // 16
    entries = np.rint(np.sqrt(np.arange(4096)) * 60).astype(int)
    table = lookup_table(entries.tolist(), first, 16)
    path = write_dicom(tmp_path / "a.dcm", pixels, bits=bits, ModalityLUTSequence=table)
    values = entries[(pixels - first).clip(0, 4095)]
    assert np.abs(grey(path) - (values - values.min()) / (values.max() - values.min()) * 255).max() <= 0.51


@pytest.mark.parametrize("stored", ["US", "OW", "OW, two to a word"])
def test_a_table_of_eight_bits_and_more_than_256_entries(tmp_path, stored):
    entries = np.rint(np.linspace(0, 1, 4096) ** 0.5 * 255).astype("<u2")
    table = lookup_table(entries.tolist(), 0, 8)
    if stored != "US":
        content = entries.astype("u1" if "two" in stored else "<u2").tobytes()
        table[0].add_new("LUTData", "OW", content)
    path = write_dicom(tmp_path / "a.dcm", RAMP, VOILUTSequence=table)
    assert np.abs(grey(path) - entries[RAMP]).max() <= 0.51


def test_bits_of_an_overlay_are_no_pixels(tmp_path):
    marked = RAMP | np.where(RAMP % 7 == 0, 2**15, 0)
    assert (grey(write_dicom(tmp_path / "a.dcm", marked)) == grey(write_dicom(tmp_path / "b.dcm", RAMP))).all()


def test_a_dicom_file_is_recognized_by_its_content(tmp_path):
    write_dicom(tmp_path / "a.dcm", RAMP).rename(tmp_path / "image_without_ending")
    assert grey(tmp_path / "image_without_ending").max() == 255


@pytest.mark.parametrize("implicit", [False, True])
def test_a_dicom_file_without_the_name_of_its_encoding(tmp_path, implicit):
    path = write_dicom(tmp_path / "a.dcm", RAMP)
    expected = np.asarray(decode(path))
    data = dcmread(path)
    del data.file_meta.TransferSyntaxUID
    data.save_as(tmp_path / "b.dcm", enforce_file_format=False, implicit_vr=implicit, little_endian=True)
    assert (np.asarray(decode(tmp_path / "b.dcm")) == expected).all()


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


@pytest.mark.parametrize("value", [0, 255, (9, 9, 10)])
def test_an_image_without_contrast_is_shown_with_one_warning(tmp_path, value, capsys):
    _warn_of_blank_images.cache_clear()
    for name in ("a.png", "b.png"):
        Image.new("RGB" if isinstance(value, tuple) else "L", (9, 8), value).save(tmp_path / name)
        assert lacks_contrast(open_image(str(tmp_path / name)))
    said = capsys.readouterr().err
    assert said.count("warning: at least one image has no contrast") == 1
    assert str(tmp_path) not in said
    open_image("<blank>")
    Image.fromarray(RAMP.astype(np.uint8)).save(tmp_path / "a.png")
    open_image(str(tmp_path / "a.png"))
    assert not capsys.readouterr().err


def test_an_unsupported_compression_is_named(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", RAMP)
    data = dcmread(path)
    data.PixelData = encapsulate([b"\0" * 64])
    data.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    data.save_as(path)
    with pytest.raises(UnreadableImageError, match=r"cannot be decoded \(JPEG Lossless.*pylibjpeg"):
        decode(path)

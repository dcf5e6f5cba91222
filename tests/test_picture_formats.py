"""Pictures of every accepted format equal those of transformers' `load_image`; where they differ, ours are right."""

import io
import struct
import subprocess
import sys
import zlib
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile, ImageOps, features
from transformers.image_utils import load_image

from interp.images.decode import PICTURE_FORMATS, decode
from interp.images.grey import MAX_PIXELS, UnreadableImageError, lacks_contrast

RNG = np.random.default_rng(0)
GREY = Image.fromarray(RNG.integers(0, 200, (20, 30), dtype=np.uint8))
COLOUR = Image.fromarray(RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8))
ALPHA = Image.fromarray(RNG.integers(0, 256, (20, 30), dtype=np.uint8))


def _lab() -> Image.Image:
    spaces = [ImageCms.createProfile(name) for name in ("sRGB", "LAB")]
    return ImageCms.applyTransform(COLOUR, ImageCms.buildTransform(*spaces, "RGB", "LAB"))


MODES = {
    "bits": GREY.point(lambda value: 255 * (value > 100), "1"),
    "grey": GREY,
    "grey, alpha": Image.merge("LA", (GREY, ALPHA)),
    "palette": COLOUR.quantize(64),
    "colour": COLOUR,
    "colour, alpha": Image.merge("RGBA", (*COLOUR.split(), ALPHA)),
    "CMYK": COLOUR.convert("CMYK"),
    "YCbCr": COLOUR.convert("YCbCr"),
    "LAB": _lab(),
}
# The modes that a format can hold.
HELD = {
    "PNG": ("bits", "grey", "grey, alpha", "palette", "colour", "colour, alpha"),
    "JPEG": ("bits", "grey", "colour", "CMYK", "YCbCr"),
    "TIFF": tuple(MODES),
    "BMP": ("bits", "grey", "palette", "colour", "colour, alpha"),
    "GIF": ("bits", "grey", "grey, alpha", "palette", "colour", "colour, alpha"),
    "WEBP": ("grey", "grey, alpha", "palette", "colour", "colour, alpha"),
    "JPEG2000": ("grey", "grey, alpha", "colour", "colour, alpha", "CMYK"),
    "AVIF": ("grey", "palette", "colour", "colour, alpha"),
}
TURNED = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels, 2).swapaxes(0, 1),
    8: np.rot90,
}
"""EXIF orientation -> how a stored image [h, w, ...] is to be displayed (EXIF 2.3, tag 0x0112)."""


def encoded(picture, format, orientation=None, **options) -> bytes:
    content = io.BytesIO()
    if orientation is not None:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = orientation
    picture.save(content, format, **options)
    return content.getvalue()


def shown(tmp_path, content: bytes) -> np.ndarray:
    """Our pixels of a file [h, w, 3]; its name tells nothing about its format."""
    (tmp_path / "image").write_bytes(content)
    picture = decode(tmp_path / "image")
    assert picture.mode == "RGB"
    return np.asarray(picture)


def loaded(content: bytes) -> np.ndarray:
    """The pixels [h, w, 3] of `load_image`. Opened from memory: see the test of TIFF files on the disk."""
    return np.asarray(load_image(Image.open(io.BytesIO(content))))


def grey(tmp_path, content: bytes) -> np.ndarray:
    pixels = shown(tmp_path, content)
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0].astype(int)


def stretched(values) -> np.ndarray:
    """Values mapped from minimum to maximum to 0 to 255."""
    values = np.asarray(values, float)
    return (values - values.min()) / (values.max() - values.min()) * 255


def test_every_accepted_format_is_compared():
    assert set(HELD) == set(PICTURE_FORMATS)


@pytest.mark.parametrize(("format", "mode"), [(format, mode) for format in HELD for mode in HELD[format]])
def test_pictures_of_eight_bits_equal_those_of_load_image_in_every_orientation(format, mode, tmp_path):
    if format == "AVIF" and not features.check("avif"):
        pytest.skip("this PIL reads no AVIF")
    for orientation in (None, *range(10)):
        content = encoded(MODES[mode], format, orientation)
        np.testing.assert_array_equal(shown(tmp_path, content), loaded(content))


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", TURNED)
def test_an_orientation_turns_the_stored_pixels(format, orientation, tmp_path):
    content = encoded(COLOUR, format, orientation, **({"lossless": True} if format == "WEBP" else {}))
    np.testing.assert_array_equal(shown(tmp_path, content), TURNED[orientation](np.asarray(COLOUR)))


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "packbits", "tiff_deflate"])
@pytest.mark.parametrize("depth", ["uint8", "uint16", "int32", "float32"])
def test_tiff_files_on_the_disk_are_turned(compression, depth, tmp_path):
    """PIL maps an uncompressed file into memory and then misplaces its pixels, so that `load_image` is wrong here."""
    values = np.arange(600).reshape(20, 30) % (256 if depth == "uint8" else 1000)
    for orientation, turn in TURNED.items():
        content = encoded(Image.fromarray(values.astype(depth)), "TIFF", orientation, compression=compression)
        expected = turn(values if depth == "uint8" else stretched(values))
        assert np.abs(grey(tmp_path, content) - expected).max() <= 0.5


def test_an_orientation_in_xmp_counts(tmp_path):
    content = encoded(COLOUR, "JPEG", xmp=b'<rdf:Description tiff:Orientation="6"/>', quality=100)
    assert shown(tmp_path, content).shape == (30, 20, 3)
    np.testing.assert_array_equal(shown(tmp_path, content), loaded(content))


def test_exif_data_without_a_readable_orientation(tmp_path):
    garbage = encoded(GREY, "JPEG", exif=b"Exif\0\0garbage garbage")
    np.testing.assert_array_equal(shown(tmp_path, garbage), loaded(garbage))
    with pytest.raises(SyntaxError):
        loaded(encoded(GREY, "PNG", exif=b"Exif\0\0garbage garbage"))
    with pytest.raises(UnreadableImageError, match="EXIF data that are damaged, so the orientation is unknown"):
        shown(tmp_path, encoded(GREY, "PNG", exif=b"Exif\0\0garbage garbage"))


@pytest.mark.parametrize("background", [0, 255])
def test_transparency_shows_the_colours_beneath_it(background, tmp_path):
    """Like `load_image`: neither black nor white takes the place of a transparent pixel."""
    palette = COLOUR.quantize(16)
    everywhere = COLOUR.copy()
    everywhere.putalpha(0)
    beneath = Image.new("RGB", (30, 20), (background, 100, background))
    beneath.putpixel((3, 4), (1, 2, 3))
    beneath.putalpha(0)
    for picture, options in (
        (palette, {"transparency": 3}),
        (palette, {"transparency": bytes([background]) * 16}),
        (everywhere, {}),
        (beneath, {}),
        (GREY, {"transparency": background}),
        (COLOUR, {"transparency": (background, 0, 0)}),
    ):
        content = encoded(picture, "PNG", **options)
        np.testing.assert_array_equal(shown(tmp_path, content), loaded(content))
        np.testing.assert_array_equal(shown(tmp_path, content), np.asarray(picture.convert("RGB")))


def test_colour_profiles_and_gamma_are_ignored(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for format in ("PNG", "TIFF"):
        np.testing.assert_array_equal(shown(tmp_path, encoded(COLOUR, format, icc_profile=profile)), np.asarray(COLOUR))


def test_inverted_cmyk_of_adobe(tmp_path):
    content = encoded(MODES["CMYK"], "JPEG", quality=100)
    assert b"Adobe" in content
    np.testing.assert_array_equal(shown(tmp_path, content), loaded(content))
    # Inverting by mistake would change colours by 128 on average.
    assert np.abs(shown(tmp_path, content).astype(int) - np.asarray(MODES["CMYK"].convert("RGB"))).mean() < 40


@pytest.mark.parametrize("others", [1, 3])
def test_the_first_picture_of_several_in_a_jpeg_is_shown(others, tmp_path):
    content = encoded(COLOUR, "MPO", save_all=True, append_images=[GREY.convert("RGB")] * others)
    assert Image.open(io.BytesIO(content)).n_frames == 1 + others
    np.testing.assert_array_equal(shown(tmp_path, content), loaded(content))
    np.testing.assert_array_equal(shown(tmp_path, content), loaded(encoded(COLOUR, "JPEG")))
    turned = encoded(COLOUR, "MPO", 6, save_all=True, append_images=[GREY.convert("RGB")] * others)
    np.testing.assert_array_equal(shown(tmp_path, turned), loaded(turned))
    assert shown(tmp_path, turned).shape == (30, 20, 3)


@pytest.mark.parametrize("format", ["GIF", "TIFF", "PNG", "WEBP", "AVIF"])
def test_several_frames_are_refused(format, tmp_path):
    if format == "AVIF" and not features.check("avif"):
        pytest.skip("this PIL reads no AVIF")
    frames = [GREY, ImageOps.invert(GREY), GREY.rotate(180)]
    content = encoded(frames[0], format, save_all=True, append_images=frames[1:])
    with pytest.raises(UnreadableImageError, match="not a single image but 3 frames"):
        shown(tmp_path, content)


VALUES = np.linspace(0, 4095, 600).round().astype(np.uint16).reshape(20, 30)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "JPEG2000"])
def test_grey_of_sixteen_bits_is_stretched_where_load_image_clips(format, tmp_path):
    content = encoded(Image.fromarray(VALUES), format)
    assert np.abs(grey(tmp_path, content) - stretched(VALUES)).max() <= 0.5
    np.testing.assert_array_equal(loaded(content)[..., 0], VALUES.clip(0, 255))


@pytest.mark.parametrize("depth", ["int32", "float32"])
def test_grey_of_other_depths_is_stretched(depth, tmp_path):
    values = VALUES.astype(depth) - 2000
    assert np.abs(grey(tmp_path, encoded(Image.fromarray(values), "TIFF")) - stretched(values)).max() <= 0.5


@pytest.mark.parametrize("scale", [1e-12, 1e-30, 1e30])
def test_small_and_large_values_are_stretched(scale, tmp_path):
    values = (VALUES * scale).astype(np.float32)
    assert np.abs(grey(tmp_path, encoded(Image.fromarray(values), "TIFF")) - stretched(values)).max() <= 0.5


def test_one_outlying_value_is_refused(tmp_path):
    """Stretched to its range, the rest of the image is nearly black."""
    values = np.tile(VALUES, (30, 30))
    assert not lacks_contrast(Image.fromarray(shown(tmp_path, encoded(Image.fromarray(values), "PNG"))))
    values = values // 16
    # One damaged pixel, then a mark that is burned into .8% of the film.
    for marked in (1, int(0.008 * values.size)):
        values.ravel()[5 : 5 + marked] = 65535
        with pytest.raises(UnreadableImageError, match="a few outlying grey values"):
            shown(tmp_path, encoded(Image.fromarray(values), "PNG"))


@pytest.mark.parametrize(("padding", "other"), [(65535, 0), (0, 40000)])
def test_padding_that_leaves_few_levels_is_refused(padding, other, tmp_path):
    """A third of a film of 12 bits is padding of another range; the film itself would be nearly one grey."""
    values = np.tile(VALUES, (30, 30)).astype(np.uint16) + other
    values[: len(values) // 3] = padding
    with pytest.raises(UnreadableImageError, match="padding"):
        shown(tmp_path, encoded(Image.fromarray(values), "PNG"))


def test_a_damaged_pixel_that_leaves_sixteen_levels_is_refused_and_a_mark_of_twice_the_range_is_not(tmp_path):
    values = np.tile(VALUES, (3, 3))
    values[5, 5] = 65535
    with pytest.raises(UnreadableImageError, match="fewer than 32 of 256 levels"):
        shown(tmp_path, encoded(Image.fromarray(values), "PNG"))
    values[5, 5] = 2 * 4095
    assert shown(tmp_path, encoded(Image.fromarray(values), "PNG")).max() == 255


def test_a_mask_of_zeros_and_ones_shows_nothing(tmp_path):
    mask = np.zeros((20, 30), np.uint8)
    mask[:10] = 1
    assert lacks_contrast(Image.fromarray(shown(tmp_path, encoded(Image.fromarray(mask), "PNG"))))
    assert not lacks_contrast(Image.fromarray(shown(tmp_path, encoded(Image.fromarray(255 * mask), "PNG"))))


def test_signed_values_are_stretched(tmp_path):
    values = VALUES.astype(np.int16) - 2000
    assert np.abs(grey(tmp_path, tiff(values, photometric=1)) - stretched(values)).max() <= 0.5


@pytest.mark.parametrize("depth", ["uint8", "uint16", "float32"])
def test_a_tiff_file_whose_large_values_are_dark_is_inverted(depth, tmp_path):
    """PhotometricInterpretation 0, WhiteIsZero. PIL itself inverts 8 bits only."""
    values = (VALUES // 16).astype(depth)
    content = tiff(values, photometric=0)
    expected = 255 - (values if depth == "uint8" else stretched(values))
    assert np.abs(grey(tmp_path, content) - expected).max() <= 0.5
    assert np.abs(grey(tmp_path, tiff(values, photometric=1)) - (255 - expected)).max() <= 0.5


def tiff(values: np.ndarray, photometric: int) -> bytes:
    """A little-endian TIFF file with one uncompressed strip of grey values."""
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    data = values.tobytes()
    height, width = values.shape
    tags = [
        (256, width), (257, height), (258, 8 * values.itemsize), (259, 1), (262, photometric), (273, 8),
        (277, 1), (278, height), (279, len(data)), (339, kind),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def png(values: np.ndarray, colour: int) -> bytes:
    """A PNG file of 16 bits per channel; `colour` is PNG's colour type: 2 RGB, 4 grey and alpha, 6 RGB and alpha."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (6, 4)])
def test_colour_of_sixteen_bits_keeps_the_upper_eight(colour, channels, tmp_path):
    values = RNG.integers(0, 2**16, (20, 30, channels))
    content = png(values, colour)
    np.testing.assert_array_equal(shown(tmp_path, content), values[..., :3] >> 8)
    np.testing.assert_array_equal(shown(tmp_path, content), loaded(content))


def test_colour_of_sixteen_bits_that_would_be_nearly_black_is_refused(tmp_path):
    content = png(np.repeat(VALUES[..., None], 3, -1), 2)
    assert loaded(content).max() == 15
    with pytest.raises(UnreadableImageError, match=r"lower 12 only.*save it with 8 bits"):
        shown(tmp_path, content)


def test_grey_of_sixteen_bits_with_transparency_is_refused(tmp_path):
    """PIL reads the upper 8 bits only: a radiograph of 12 bits would be nearly black."""
    content = png(np.stack([VALUES, np.full_like(VALUES, 2**16 - 1)], -1), 4)
    assert loaded(content).max() == 15
    with pytest.raises(UnreadableImageError, match=r"16 bits with transparency.*save it without transparency"):
        shown(tmp_path, content)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad, tmp_path):
    values = VALUES.astype(np.float32)
    values[3, 4] = bad
    with pytest.raises(UnreadableImageError, match="not finite"):
        shown(tmp_path, encoded(Image.fromarray(values), "TIFF"))


@pytest.mark.parametrize("format", [*HELD, "MPO"])
def test_a_truncated_file_is_never_shown_in_part(format, tmp_path, monkeypatch):
    """Not even if another library has told PIL to fill what is missing."""
    if format == "AVIF" and not features.check("avif"):
        pytest.skip("this PIL reads no AVIF")
    noise = Image.fromarray(RNG.integers(0, 256, (80, 90, 3), dtype=np.uint8))
    content = encoded(noise, format)
    whole = shown(tmp_path, content)
    for share in (0.1, 0.5, 0.9, 0.99):
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        with pytest.raises(UnreadableImageError, match="not a readable image"):
            shown(tmp_path, content[: int(share * len(content))])
    for missing in (1, 2, 12):
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        with suppress(UnreadableImageError):
            np.testing.assert_array_equal(shown(tmp_path, content[:-missing]), whole)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "JPEG2000"])
def test_huge_images_are_refused(format, tmp_path):
    side = int(MAX_PIXELS**0.5) + 1
    content = encoded(Image.new("1" if format != "JPEG2000" else "L", (side, side)), format)
    with pytest.raises(UnreadableImageError, match="more than 34 million pixels"):
        shown(tmp_path, content)


def test_other_formats_are_refused_with_those_that_are_read(tmp_path):
    for format in ("PPM", "TGA", "ICO", "PCX"):
        with pytest.raises(UnreadableImageError, match=r"damaged, or none of PNG, JPEG, TIFF, .* and DICOM"):
            shown(tmp_path, encoded(COLOUR, format))


def test_the_first_image_of_a_process_may_have_any_format(tmp_path):
    """PIL loads its readers late, which no earlier test may have done for this one."""
    for format in ("JPEG2000", "WEBP", "TIFF"):
        (tmp_path / format).write_bytes(encoded(COLOUR, format))
        path = str(tmp_path / format)
        code = f"from pathlib import Path; from interp.images.decode import decode; decode(Path({path!r}))"
        subprocess.run([sys.executable, "-c", code], check=True)


def plainly_lacks_contrast(values):
    """By the definition, of all pixels [h, w, 3]."""
    grey = np.asarray(Image.fromarray(values).convert("L"))
    return values.std((0, 1)).max() < 1 or np.bincount(grey.ravel()).max() > 0.999 * grey.size


@pytest.mark.parametrize("size", [(1, 1), (3, 7), (4, 4), (64, 64), (61, 203), (300, 200)])
def test_contrast_is_that_of_all_pixels(size):
    rng = np.random.default_rng(0)
    found = []
    for spread in (0, 0.9, 0.999, 1.0, 1.001, 1.1, 2, 4.5, 30):
        for share in (1.0, 0.02, 0.002, 0.001, 0.0009, 0.0001):
            values = 128 + spread * rng.standard_normal((*size, 3)) * (rng.random(size) < share)[..., None]
            values = values.round().clip(0, 255).astype(np.uint8)
            # A few extreme pixels, on the sampled places and beside them.
            for place in range(rng.integers(0, 3)):
                values[rng.integers(size[0]), rng.integers(size[1]), place] = 255 * rng.integers(2)
            found.append(plainly_lacks_contrast(values))
            assert lacks_contrast(Image.fromarray(values)) == found[-1]
    assert any(found)
    assert size == (1, 1) or not all(found)

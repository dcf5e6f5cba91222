"""Fuzzing the readers of images: image files, DICOM files, image paths, and cached image tokens."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from dicoms import write_dicom
from fuzzing import CHANGES, CUTS, HOSTILE_TEXT, LENGTHS, bounded_memory, changed, check, cut, fuzzed, with_header
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features
from pydicom import Dataset, dcmread
from pydicom.sequence import Sequence

from interp.images.decode import decode
from interp.images.grey import UnreadableImageError
from interp.images.paths import find_image, names_in
from interp.model.image_token_cache import read_tokens, write_tokens
from interp.runtime.errors import InputError

RAMP = np.arange(16 * 12, dtype=np.uint8).reshape(16, 12)
EXIF = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
FORMATS = {
    "png": (Image.fromarray(RAMP), {}),
    "png 16 bits": (Image.fromarray(RAMP.astype(np.uint16) * 256), {}),
    "png palette": (Image.fromarray(RAMP).convert("P"), {}),
    "png alpha": (Image.fromarray(RAMP).convert("RGBA"), {}),
    "jpeg": (Image.fromarray(RAMP), {}),
    "jpeg cmyk": (Image.fromarray(RAMP).convert("CMYK"), {}),
    "jpeg exif": (
        Image.fromarray(RAMP),
        {"exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"},
    ),
    "tiff": (Image.fromarray(RAMP), {}),
    "tiff 16 bits": (Image.fromarray(RAMP.astype(np.uint16) * 256), {}),
    "tiff float": (Image.fromarray(RAMP.astype(np.float32)), {}),
    "bmp": (Image.fromarray(RAMP), {}),
    "gif": (Image.fromarray(RAMP), {}),
    "webp": (Image.fromarray(RAMP).convert("RGB"), {}),
    "jpeg2000": (Image.fromarray(RAMP), {}),
    "jpeg2000 16 bits": (Image.fromarray(RAMP.astype(np.uint16) * 256), {}),
    "mpo": (Image.fromarray(RAMP), {"save_all": True, "append_images": [Image.fromarray(255 - RAMP)]}),
    **({"avif": (Image.fromarray(RAMP), {})} if features.check("avif") else {}),
    "gif animated": (Image.fromarray(RAMP), {"save_all": True, "append_images": [Image.fromarray(255 - RAMP)] * 3}),
}


@pytest.fixture(autouse=True)
def _bounded():
    with bounded_memory():
        yield


def encoded(name: str) -> bytes:
    picture, options = FORMATS[name]
    content = io.BytesIO()
    picture.save(content, name.split()[0].upper(), **options)
    return content.getvalue()


def decoded(reader: str, path: Path) -> Image.Image | InputError:
    """Return what `decode` returns; an UnreadableImageError counts as an InputError."""

    def call() -> Image.Image:
        try:
            return decode(path)
        except UnreadableImageError as error:
            raise InputError(str(error)) from None

    found = check(reader, call)
    assert str(path) not in str(found)
    assert isinstance(found, InputError) or (found.mode == "RGB" and min(found.size) > 0)
    return found


@pytest.mark.parametrize("name", [name for name in FORMATS if "animated" not in name])
def test_the_images_are_readable_before_they_are_damaged(name, tmp_path):
    (tmp_path / "image").write_bytes(encoded(name))
    assert decode(tmp_path / "image").size == ((16, 12) if "exif" in name else (12, 16))


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", FORMATS)
def test_images_with_damaged_bytes(name, length, tmp_path):
    content, path = encoded(name), tmp_path / "image"

    @fuzzed(length, 40, 1500)
    @given(CUTS)
    def run(cuts):
        path.write_bytes(cut(content, cuts))
        decoded(f"picture, {name}", path)

    run()


@pytest.mark.parametrize("length", LENGTHS)
def test_false_png_headers(length, tmp_path):
    """Any size, depth and colour type with a correct checksum, followed by the pixels of a small image."""
    content, path = encoded("png"), tmp_path / "image.png"
    sizes = st.one_of(st.sampled_from([0, 1, 10**4, 12_000, 2**16, 2**31 - 1, 2**32 - 1]), st.integers(0, 40))
    chunk_kinds = st.sampled_from([b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"iCCP", b"acTL", b"tRNS", b"PLTE"])

    @fuzzed(length, 50, 4000)
    @given(sizes, sizes, st.sampled_from([1, 2, 4, 8, 16, 99]), st.integers(0, 7), chunk_kinds, st.binary(max_size=40))
    def run(width, height, depth, colour, kind, extra):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
        path.write_bytes(content[:8] + header + chunk(kind, extra) + content[33:])
        decoded("picture, png header", path)

    run()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@pytest.mark.parametrize("length", LENGTHS)
def test_dicom_with_damaged_bytes(length, tmp_path):
    path = write_dicom(tmp_path / "a.dcm", np.arange(16 * 12).reshape(16, 12) * 16, WindowCenter=2000, WindowWidth=1000)
    content = path.read_bytes()

    @fuzzed(length, 100, 6000)
    @given(CUTS)
    def run(cuts):
        path.write_bytes(cut(content, cuts))
        assert "Doe" not in str(decoded("DICOM, damaged", path))

    run()


TAGS = {
    "Rows": st.sampled_from([0, 1, 15, 16, 17, 65535]),
    "Columns": st.sampled_from([0, 1, 12, 13, 65535]),
    "BitsAllocated": st.sampled_from([0, 1, 7, 8, 12, 16, 32, 64, 65535]),
    "BitsStored": st.sampled_from([0, 1, 12, 16, 65535]),
    "HighBit": st.sampled_from([0, 11, 65535]),
    "PixelRepresentation": st.sampled_from([0, 1, 2]),
    "SamplesPerPixel": st.sampled_from([0, 1, 2, 3, 4, 65535]),
    "PlanarConfiguration": st.sampled_from([0, 1, 7]),
    "PhotometricInterpretation": st.sampled_from(
        ["MONOCHROME1", "RGB", "YBR_FULL", "YBR_FULL_422", "PALETTE COLOR", "", "x"]
    ),
    "NumberOfFrames": st.sampled_from(["0", "1", "2", "-1", "2147483647"]),
    "WindowCenter": st.sampled_from(["0", "-1e300", "1e300", "2000"]),
    "WindowWidth": st.sampled_from(["0", "-1", "1e300", "1"]),
    "RescaleSlope": st.sampled_from(["0", "-1", "1e300", "1"]),
    "RescaleIntercept": st.sampled_from(["0", "1e300", "-1000"]),
    "VOILUTFunction": st.sampled_from(["SIGMOID", "LINEAR_EXACT", "x", ""]),
    "LUTDescriptor": st.tuples(*[st.sampled_from([0, 1, 8, 12, 16, 255, 4096, 65535])] * 3).map(list),
}
DROPPED = object()
SYNTAXES = [
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.5",
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.90",
    "1.2",
    "",
]


@pytest.mark.parametrize("length", LENGTHS)
def test_dicom_with_other_tags(length, tmp_path):
    path = write_dicom(tmp_path / "a.dcm", np.arange(16 * 12).reshape(16, 12) * 16, WindowCenter=2000, WindowWidth=1000)
    tags = st.fixed_dictionaries({}, optional={name: values | st.just(DROPPED) for name, values in TAGS.items()})

    @fuzzed(length, 100, 5000)
    @given(
        tags,
        st.sampled_from([None] * 4 + SYNTAXES),
        st.integers(0, 3),
        st.lists(st.sampled_from([0, 200, 65535]), max_size=2),
    )
    def run(changes, syntax, depth, padding):
        data = dcmread(path.parent / "whole.dcm")
        for name, value in changes.items():
            if name == "LUTDescriptor":
                if value is not DROPPED:
                    data.VOILUTSequence = data.ModalityLUTSequence = Sequence([lookup_table(value)])
            elif value is not DROPPED:
                setattr(data, name, value)
            elif name in data:
                delattr(data, name)
        for tag, value in zip((0x00280120, 0x00280121), padding, strict=False):
            data.add_new(tag, "US", value)
        inner = data
        for _ in range(depth):
            inner.ReferencedImageSequence = Sequence([Dataset()])
            inner = inner.ReferencedImageSequence[0]
        data.save_as(path)
        content = path.read_bytes()
        if syntax is not None:
            # Replaced in place, so the dataset that follows does not have the declared syntax.
            content = content.replace(b"1.2.840.10008.1.2.1\0", syntax.encode().ljust(20, b"\0"), 1)
        path.write_bytes(content)
        decoded("DICOM, other tags", path)

    (tmp_path / "whole.dcm").write_bytes(path.read_bytes())
    run()


def lookup_table(descriptor: list[int]) -> Dataset:
    table = Dataset()
    table.add_new("LUTDescriptor", "US", descriptor)
    table.add_new("LUTData", "OW", np.arange(256, dtype=np.uint16).tobytes())
    return table


@pytest.fixture
def linked_root(tmp_path) -> Path:
    """An image root with links to itself, to its parent and to nowhere, and a file name that is not valid text."""
    root = tmp_path / "root"
    (root / "files" / "p10").mkdir(parents=True)
    for name in ("a.png", "files/b.png", "files/p10/a.png", "files/p10/c.png"):
        Image.fromarray(RAMP).save(root / name)
    (root / "loop").symlink_to(root)
    (root / "files" / "loop").symlink_to(root / "files")
    (root / "nowhere.png").symlink_to(root / "absent")
    (root / "self.png").symlink_to(root / "self.png")
    Image.fromarray(RAMP).save(tmp_path / "outside.png")
    os.close(os.open(os.fsencode(root) + b"/\xff\xfe.png", os.O_CREAT | os.O_WRONLY))
    return root


PARTS = st.sampled_from(
    [
        "a.png",
        "a",
        "b.png",
        "c",
        "files",
        "p10",
        "loop",
        "..",
        ".",
        "",
        "~",
        "outside.png",
        "nowhere.png",
        "self.png",
        *HOSTILE_TEXT,
    ]
)
SEPARATORS = st.sampled_from(["/", "//", "\\", "/../", "/./"])
PATHS = st.builds(
    lambda parts, separator, absolute: "/" * absolute + separator.join(parts),
    st.lists(PARTS, min_size=1, max_size=4),
    SEPARATORS,
    st.integers(0, 2),
)


@pytest.mark.parametrize("length", LENGTHS)
def test_image_paths(length, linked_root):
    by_name = check("names", lambda: names_in(linked_root))
    inside = os.path.realpath(linked_root)

    @fuzzed(length, 200, 6000)
    @given(PATHS | st.text(max_size=8))
    def run(name):
        def call() -> str:
            try:
                return find_image(name, linked_root, by_name)
            except UnreadableImageError as error:
                raise InputError(str(error)) from None

        found = check("image path", call)
        if not isinstance(found, InputError):
            place = os.path.realpath(linked_root / found)
            assert os.path.commonpath([place, inside]) == inside
            assert os.path.isfile(place)

    run()


@pytest.mark.parametrize("length", LENGTHS)
def test_cached_image_tokens(length, tmp_path):
    file = tmp_path / "aa" / "tokens.safetensors"
    tokens = torch.arange(12.0).reshape(3, 4)
    write_tokens(file, tokens)
    content = file.read_bytes()

    @fuzzed(length, 100, 6000)
    @given(CHANGES, CUTS, st.booleans())
    def run(changes, cuts, header):
        file.write_bytes(
            with_header(content, lambda known: changed(known, changes), None) if header else cut(content, cuts)
        )
        found = check("image cache", lambda: read_tokens(file))
        assert found is None or found.numel() == 0 or torch.equal(found, tokens)

    run()

"""An image with an EXIF orientation is one image everywhere: tokens, cache, boxes, occlusion and figures."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText
from transformers.image_utils import load_image

from finetune.grounding.figures import example_sheet
from finetune.grounding.questions import lesion_of
from interp.images.boxes import centres_in
from interp.images.decode import open_image
from interp.measurement.occlusion import image_pixels
from interp.model import image_token_cache
from interp.model.image_tokens import encode_images
from interp.model.lens_inputs import lens_inputs
from interp.model.load import load_vlm
from interp.questions.schema import Question
from interp.runtime.errors import InputError

ORIENTATIONS = range(1, 9)
WIDTH, HEIGHT = 80, 40
"""Size of the image as displayed [pixels]."""
BOX = (8, 4, 28, 14)
"""A bright lesion in the displayed image, in its upper left quarter."""
BACK = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}
"""Orientation -> the one that undoes it."""


def displayed() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 60, (HEIGHT, WIDTH), dtype=np.uint8)
    pixels[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 250
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Orientation -> a PNG file that shows the same displayed image, stored as a camera in that position stores it."""
    turns = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    folder = tmp_path_factory.mktemp("oriented")
    for orientation in ORIENTATIONS:
        turn = turns[BACK[orientation]]
        exif = Image.Exif()
        exif[0x0112] = orientation
        picture = displayed() if turn is None else displayed().transpose(turn)
        picture.save(folder / f"{orientation}.png", exif=exif)
    return {orientation: str(folder / f"{orientation}.png") for orientation in ORIENTATIONS}


def asked(path: str, box=BOX) -> Question:
    return Question(id="q", image=path, question="Is there edema?", answer="yes", type="presence", boxes=[box])


def test_all_files_show_the_same_image(files):
    stored = {Image.open(path).size for path in files.values()}
    assert stored == {(WIDTH, HEIGHT), (HEIGHT, WIDTH)}
    for path in files.values():
        np.testing.assert_array_equal(open_image(path), displayed().convert("RGB"))
        np.testing.assert_array_equal(open_image(path), load_image(path))


def test_tokens_are_those_of_plain_transformers(files, tiny_model, tmp_path):
    plain = AutoModelForImageTextToText.from_pretrained(tiny_model).eval()
    first, cached = (load_vlm(tiny_model, "cpu", "float32", image_cache=tmp_path / "cache") for _ in range(2))
    encode_images(first, list(files.values()))
    encode_images(cached, list(files.values()))
    for path in files.values():
        pixels = first.processor.image_processor(load_image(path), return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            expected = plain.model.get_image_features(pixels, return_dict=True).pooler_output[0]
        torch.testing.assert_close(first.image_tokens[path], expected, atol=1e-5, rtol=1e-5)
        assert torch.equal(cached.image_tokens[path], first.image_tokens[path])
        torch.testing.assert_close(image_pixels(first, path), pixels[0])
        torch.testing.assert_close(lens_inputs(first, path, "Is there edema?")["pixel_values"], pixels)


def test_tokens_that_an_older_version_cached_are_not_used(files, tiny_model, tmp_path, monkeypatch):
    """Version 2 of the cache held the tokens of images that were not rotated."""
    for layout, kept in (("2", 8), (image_token_cache.LAYOUT, 16)):
        monkeypatch.setattr(image_token_cache, "LAYOUT", layout)
        encode_images(load_vlm(tiny_model, "cpu", "float32", image_cache=tmp_path / "cache"), list(files.values()))
        assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == kept


def test_an_image_of_a_single_colour_is_not_cached(tiny_model, tmp_path):
    Image.new("L", (20, 20), 3).save(tmp_path / "black.png")
    vlm = load_vlm(tiny_model, "cpu", "float32", image_cache=tmp_path / "cache")
    encode_images(vlm, [str(tmp_path / "black.png")])
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_boxes_are_in_pixels_of_the_displayed_image(files):
    for path in files.values():
        lesion = lesion_of(asked(path), 4, np.random.default_rng(0))
        np.testing.assert_allclose(lesion.boxes, [[0.1, 0.1, 0.35, 0.35]])
        bright = np.asarray(open_image(path).resize((40, 40), Image.Resampling.NEAREST).convert("L")) > 200
        np.testing.assert_array_equal(centres_in(lesion.boxes, 40), bright)
        with pytest.raises(InputError, match="80 x 40 pixels"):
            lesion_of(asked(path, (10, 41, 30, 60)), 4, np.random.default_rng(0))


def test_figures_show_the_box_on_the_lesion(files):
    for path in files.values():
        figure = example_sheet([asked(path)], {"base": {"occlusion": np.ones((1, 16))}})
        axes = figure.axes[0]
        np.testing.assert_array_equal(axes.images[0].get_array(), displayed())
        ((x, y),) = [patch.get_xy() for patch in axes.patches]
        assert (x, y) == pytest.approx((0.1, 0.1))

"""Batched occlusions give the results of plain transformers on one edited image at a time."""

import numpy as np
import pytest
import torch
from finetune_world import plain_margin
from PIL import Image, ImageDraw

from interp.measurement.occlusion import (
    encode_occluded,
    image_margins,
    image_pixels,
    make_fill,
    occlude,
    single_cells,
    token_margins,
)
from interp.model.load import load_vlm
from interp.model.prompts import DEFAULT_STYLE

TEXTS = ["Is there a nodule?", "Any nodule here?", "Do you see it in this pic at all, or is it not there?"]
CLOSED = [True, True, False]
CELL = 16


@pytest.fixture(scope="module", params=[True, False], ids=["image first", "question first"])
def vlm(request, tiny_model):
    style = DEFAULT_STYLE._replace(image_first=request.param, answer_instruction="Yes or no?")
    return load_vlm(tiny_model, "cpu", "float32", style=style)


@pytest.fixture(scope="module")
def picture():
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def path(picture, tmp_path_factory):
    file = tmp_path_factory.mktemp("occlusion") / "image.png"
    picture.save(file)
    return str(file)


def plain(vlm, picture, text, closed):
    """The margin of one wording on one PIL image, from plain transformers."""
    text = f"{text} Yes or no?" if closed else text
    content = [{"type": "image", "image": picture}, {"type": "text", "text": text}]
    inputs = vlm.processor.apply_chat_template(
        [{"role": "user", "content": content if vlm.style.image_first else content[::-1]}],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        return plain_margin(vlm.model(**inputs).logits[0, -1], vlm.processor.tokenizer)


def without_cell(picture, cell, colour):
    edited = picture.copy()
    row, column = divmod(cell, 4)
    corner = (column * CELL, row * CELL, column * CELL + CELL - 1, row * CELL + CELL - 1)
    ImageDraw.Draw(edited).rectangle(corner, fill=colour)
    return edited


def test_occlusions_equal_those_of_edited_images(vlm, picture, path):
    expected = [
        [
            plain(vlm, without_cell(picture, cell, (128,) * 3), text, closed)
            for text, closed in zip(TEXTS, CLOSED, strict=True)
        ]
        for cell in range(16)
    ]
    pixels = image_pixels(vlm, path)
    before = dict(vlm.image_tokens)
    for image_batch, batch_tokens in ((32, 4096), (5, 150), (None, 4096)):
        tokens = encode_occluded(vlm, pixels, make_fill(vlm, pixels, "grey"), single_cells(4), image_batch)
        found = token_margins(vlm, tokens, TEXTS, CLOSED, batch_tokens)
        torch.testing.assert_close(found, torch.tensor(expected), atol=1e-4, rtol=0)
    assert vlm.image_tokens == before == {}
    # The cells matter: their effects differ.
    assert found.std(0).min() > 1e-3


def test_margins_of_any_images(vlm, picture):
    pictures = [picture.rotate(90 * k) for k in range(3)]
    pixels = vlm.processor.image_processor(pictures, return_tensors="pt")["pixel_values"]
    found = image_margins(vlm, pixels, TEXTS, CLOSED, image_batch=2, batch_tokens=200)
    expected = [[plain(vlm, p, text, closed) for text, closed in zip(TEXTS, CLOSED, strict=True)] for p in pictures]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-4, rtol=0)


def test_parts_are_replaced_by_grid():
    pixels = torch.arange(3 * 4 * 8.0).reshape(3, 4, 8)
    removed = torch.zeros(2, 2, 4, dtype=torch.bool)
    removed[1, 0, 3] = True
    found = occlude(pixels, torch.full_like(pixels, -1), removed)
    torch.testing.assert_close(found[0], pixels)
    assert (found[1] == -1).nonzero()[:, 1:].unique(dim=0).tolist() == [[0, 6], [0, 7], [1, 6], [1, 7]]


def test_fillings(vlm, path):
    pixels = image_pixels(vlm, path)
    grey = make_fill(vlm, pixels, "grey")
    assert grey.min() == grey.max() == pytest.approx((128 / 255 - 0.5) / 0.5, abs=1e-6)
    mean = make_fill(vlm, pixels, "mean")
    torch.testing.assert_close(mean[:, 0, 0], pixels.mean((1, 2)))
    torch.testing.assert_close(mean[:, 63, 5], pixels.mean((1, 2)))
    blur = make_fill(vlm, pixels, "blur")
    # One pixel by the definition of a Gaussian of 8 pixels whose weights sum to one inside the image.
    weight = np.exp(-0.5 * ((np.arange(64)[:, None] - [[3, 40]]) / 8.0) ** 2)
    weight /= weight.sum(0)
    expected = np.einsum("chw,h,w->c", pixels.numpy(), weight[:, 0], weight[:, 1])
    np.testing.assert_allclose(blur[:, 3, 40].numpy(), expected, atol=1e-5)


def test_single_cells_are_row_major():
    cells = single_cells(4)
    assert cells.sum((1, 2)).tolist() == [1] * 16
    assert cells[6].nonzero().tolist() == [[1, 2]]

"""Levels that are mapped by a table are the pixels of the processor, to the last digit."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Gemma3ImageProcessor
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.utils import is_torchvision_available

from interp.model.pixels import level_table, levels_of, pixels_at, pixels_of

PROCESSORS = [
    Gemma3ImageProcessorPil,
    pytest.param(
        Gemma3ImageProcessor, marks=pytest.mark.skipif(not is_torchvision_available(), reason="needs torchvision")
    ),
]
"""Both of transformers' processors. The second is the default wherever torchvision is installed."""


def model_with(processor):
    """What holds an image processor."""
    return SimpleNamespace(processor=SimpleNamespace(image_processor=processor))


def pictures():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (90 + 7 * k, 64, 3), dtype=np.uint8)) for k in range(3)]


@pytest.mark.parametrize(
    "options",
    [
        {"image_mean": [0.5] * 3, "image_std": [0.5] * 3},
        {"image_mean": [0.48, 0.45, 0.4], "image_std": [0.26, 0.27, 0.28]},
        {"rescale_factor": 1 / 127.5, "image_mean": [1.0, 0.9, 1.1], "image_std": [1.0, 2.0, 3.0]},
        {"do_normalize": False},
        {"do_rescale": False, "do_normalize": False},
        {"do_pan_and_scan": True, "pan_and_scan_min_crop_size": 8, "pan_and_scan_min_ratio_to_activate": 1.1},
        {"resample": 2},
    ],
)
@pytest.mark.parametrize("side", [56, 64, 112])
@pytest.mark.parametrize("kind", PROCESSORS)
def test_mapped_levels_are_the_pixels_of_the_processor(kind, options, side):
    vlm = model_with(kind(size={"height": side, "width": side}, **options))
    expected = vlm.processor.image_processor(pictures(), do_pan_and_scan=False, return_tensors="pt")["pixel_values"]
    levels, table = levels_of(vlm, pictures()), level_table(vlm)
    assert levels.dtype == torch.uint8
    assert table.shape == (3, 256)
    assert torch.equal(pixels_at(levels, table), expected.float())
    assert torch.equal(pixels_at(levels, table.bfloat16()), expected.bfloat16())
    assert torch.equal(pixels_of(vlm, pictures()), expected)


def test_channels_are_mapped_apart():
    levels = torch.tensor([0, 3, 255], dtype=torch.uint8)[:, None, None].expand(3, 2, 5)[None]
    table = torch.arange(3 * 256.0).view(3, 256)
    assert pixels_at(levels, table)[0, :, 1, 4].tolist() == [0, 256 + 3, 512 + 255]

"""The image tokens of every image, computed once: pictures through the vision tower and the projector."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.images import NO_IMAGE, open_image
from interp.progress import track

if TYPE_CHECKING:
    from interp.vlm import Vlm


@torch.no_grad()
def encode_images(vlm: "Vlm", paths: Sequence[str], batch_size: int = 32) -> None:
    """Run every image not met before through the vision tower and projector, into `vlm.features`."""
    vlm.features.setdefault(NO_IMAGE, torch.empty(0, vlm.d_model))
    missing = [p for p in dict.fromkeys(paths) if p not in vlm.features]
    for start in track(range(0, len(missing), batch_size), "images", unit=batch_size):
        chunk = missing[start : start + batch_size]
        pixels = pixels_of(vlm, [open_image(p) for p in chunk])
        encoded = image_tokens(vlm.model, pixels.to(vlm.device, vlm.tower_dtype))
        vlm.features.update(zip(chunk, encoded.cpu(), strict=True))


def pixels_of(vlm: "Vlm", pictures: Sequence[Any]) -> Tensor:
    """PIL pictures as the vision tower takes them, resized and normalized by the model's processor: [b, 3, h, w]."""
    return vlm.processor.image_processor(list(pictures), return_tensors="pt")["pixel_values"]


def image_tokens(model: Any, pixels: Tensor) -> Tensor:
    """Pixels [b, 3, h, w] -> projected image tokens [b, image tokens, d_model]."""
    return model.model.get_image_features(pixels, return_dict=True).pooler_output

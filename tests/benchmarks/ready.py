"""Preparing a model like `interp.model.load.load_vlm` and undoing it, for other libraries on the same weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from interp.model.attention import set_attention
from interp.model.cpu_kernels import use_cpu_kernels
from interp.model.first_use import kernels_loaded
from interp.model.fused import fuse
from interp.model.image_tokens import make_contiguous
from interp.model.vlm import Vlm


@contextmanager
def ready(vlm: Vlm) -> Iterator[None]:
    """While open, run a model that was built in memory like one from `load_vlm`."""
    handle = make_contiguous(vlm.model)
    fuse(vlm.model)
    if vlm.device.type == "cpu":
        use_cpu_kernels(vlm.model)
    parts = (vlm.model.model.language_model, vlm.model.model.vision_tower)
    attention = [part.config._attn_implementation for part in parts]
    set_attention(vlm.model)
    # Which compares attention and its gradient with PyTorch's; a recorded step could not, and would do without.
    with kernels_loaded(vlm.shape, vlm.device, vlm.model.dtype, learns=True):
        pass
    try:
        yield
    finally:
        handle.remove()
        for part, own in zip(parts, attention, strict=True):
            part.set_attn_implementation(own)
        drop_kernels(vlm.model)


def drop_kernels(model: Any) -> None:
    """Make every module of a model run transformers' and torch's own code."""
    for module in model.modules():
        module.__dict__.pop("forward", None)

"""A model as `interp.model.load.load_vlm` makes it ready, and as it was, for the peers that run on the same weights."""

from collections.abc import Iterator
from contextlib import contextmanager

from interp.model.fused import fuse
from interp.model.image_tokens import make_contiguous
from interp.model.vlm import Vlm


@contextmanager
def ready(vlm: Vlm) -> Iterator[None]:
    """While open, a model that was built in memory runs as one that was loaded."""
    handle = make_contiguous(vlm.model)
    fuse(vlm.model)
    try:
        yield
    finally:
        handle.remove()
        for module in vlm.model.modules():
            module.__dict__.pop("forward", None)

"""A model as `interp.vlm.load_vlm` makes it ready, and as it was, for the peers that run on the same weights."""

from collections.abc import Iterator
from contextlib import contextmanager

from interp.fused import fuse
from interp.image_tokens import straighten
from interp.vlm import Vlm


@contextmanager
def ready(vlm: Vlm) -> Iterator[None]:
    """While open, a model that was built in memory runs as one that was loaded."""
    handle = straighten(vlm.model)
    fuse(vlm.model)
    try:
        yield
    finally:
        handle.remove()
        for module in vlm.model.modules():
            module.__dict__.pop("forward", None)

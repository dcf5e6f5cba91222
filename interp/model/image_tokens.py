"""Encoding images into image tokens with the vision encoder (tower and projector), each image once.

Threads read and decode the next images while a GPU encodes a batch. The tokens of a batch are copied to main memory
while the next batch is encoded.
"""

import logging
import os
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from interp.images.decode import NO_IMAGE, open_image
from interp.images.grey import lacks_contrast
from interp.model.image_token_cache import ImageCache, open_cache, read_tokens, write_tokens
from interp.model.memory_model import IMAGES
from interp.model.packing import CPU_POSITIONS, SIDE_BY_SIDE
from interp.model.pixels import level_table, levels_of, pixels_at
from interp.model.vlm import Vlm
from interp.runtime.async_copies import gather_async, to_device_async, to_host_async
from interp.runtime.prefetch import map_in
from interp.runtime.progress import track
from interp.runtime.shared_cores import map_sharing_cores, threads_with_a_core

log = logging.getLogger(__name__)
MAX_WAITING_IMAGES = 32
"""Most decoded images that wait for the tower; one of 896 x 896 pixels takes 2.4 MB."""
FIRST_IMAGES = 16
"""Images that are read while a model is loaded, two batches on a GPU."""


class LoadedImage(NamedTuple):
    """One image file, read either as cached tokens or as decoded pixels."""

    path: str
    """Path of the image."""
    cache_file: Path | None
    """Cache file for its tokens; None if they are not cached."""
    tokens: Tensor | None
    """Cached tokens [image tokens, d_model]; None if the cache has none."""
    levels: Tensor | None
    """Its levels, resized for the tower: uint8 [3, h, w]; None if the tokens were cached."""


@torch.no_grad()
def encode_images(vlm: Vlm, paths: Sequence[str], batch_size: int | None = None) -> None:
    """Encode every image that is not yet in `vlm.image_tokens`, and add its tokens there.

    Batches have `batch_size` images, by default `images_at_once`. With `vlm.image_cache`, cached tokens are read from
    it and new ones written to it. Raises InputError for an image that cannot be read.
    """
    batch_size = batch_size or images_at_once(vlm)
    # Images that were begun but are not among `paths` would stay in memory; a later call reads them again.
    begun, vlm.images_begun = vlm.images_begun, {}
    vlm.image_tokens.setdefault(NO_IMAGE, torch.empty(0, vlm.d_model))
    missing = [p for p in dict.fromkeys(paths) if p not in vlm.image_tokens]
    if not missing:
        return
    read = partial(_load_image, vlm, open_cache(vlm))

    def load(path: str) -> LoadedImage:
        # A thread waits here for a call in the same threads. That call was made earlier, so it has a thread already.
        wait = begun.pop(path, None)
        return read(path) if wait is None else wait()

    table = to_device_async(level_table(vlm).to(vlm.tower_dtype), vlm.device)
    former: Callable[[], None] | None = None
    cached = 0
    # A core of a CPU that encodes a batch also reads it, and waits for no other.
    on_cpu = vlm.device.type == "cpu"
    with closing(_in_threads(load, missing, batch_size, vlm.device)) as loaded:

        def launch(start: int) -> tuple[dict[str, Tensor], Callable[[], None]]:
            chunk = missing[start : start + batch_size]
            images = list(map(load, chunk) if on_cpu else islice(loaded, len(chunk)))
            known = {image.path: image.tokens for image in images if image.tokens is not None}
            return known, _launch_encoder(vlm, [image for image in images if image.tokens is None], table)

        starts = track(range(0, len(missing), batch_size), "images", unit=batch_size)
        for known, launched in map_sharing_cores(launch, starts, SIDE_BY_SIDE if on_cpu else 1):
            vlm.image_tokens.update(known)
            cached += len(known)
            if former is not None:
                former()
            former = launched
    if former is not None:
        former()
    if cached:
        log.info("%d of %d images from the image cache", cached, len(missing))


def _in_threads(
    load: Callable[[str], LoadedImage], paths: Sequence[str], batch_size: int, device: torch.device
) -> Generator[LoadedImage, None, None]:
    """Read images in threads, in their order: those of the first batch, and once these are taken, the others ahead."""
    # The GPU waits for the first batch, and threads that read more images, in the same interpreter, would hold it up.
    for part, ahead in ((paths[:batch_size], batch_size), (paths[batch_size:], MAX_WAITING_IMAGES)):
        yield from map_in(decoders(device), load, part, ahead)


def begin_images(vlm: Vlm, paths: Iterable[str], device: torch.device) -> None:
    """Begin to read the first images that a GPU will encode, in threads, while the weights are on their way to it.

    `load_batches` encodes images in the order of their paths. Whoever encodes an unreadable one reports it.
    """
    if device.type == "cpu" or vlm.image_cache is not None:
        return
    first = sorted(set(paths))[:FIRST_IMAGES]
    vlm.images_begun |= {path: decoders(device).submit(_load_image, vlm, None, path).result for path in first}


def images_at_once(vlm: Vlm) -> int:
    """Images of a batch: eight keep a GPU busy, and more would wait longer for decoding; on a CPU as patches fit."""
    return max(1, CPU_POSITIONS // vlm.shape.patches) if vlm.device.type == "cpu" else IMAGES


def decoders(device: torch.device) -> ThreadPoolExecutor:
    """The threads that read and decode images; few on a CPU, where torch computes on the same cores."""
    return threads_with_a_core(min(16 if device.type != "cpu" else 2, os.cpu_count() or 1))


def _load_image(vlm: Vlm, cache: ImageCache | None, path: str) -> LoadedImage:
    file = None if cache is None else cache.file_of(path)
    tokens = None if file is None else read_tokens(file)
    if tokens is not None:
        return LoadedImage(path, file, tokens, None)
    picture = open_image(path)
    # An image without contrast is not cached, so that every run warns of it.
    kept = None if file is None or lacks_contrast(picture) else file
    return LoadedImage(path, kept, None, levels_of(vlm, [picture])[0])


def _launch_encoder(vlm: Vlm, images: Sequence[LoadedImage], table: Tensor) -> Callable[[], None]:
    """Start encoding decoded images; the returned function waits for their tokens and stores them.

    `table` [3, LEVELS], on the tower's device, maps their levels (`interp.model.pixels.level_table`).
    """
    if not images:
        return lambda: None
    levels = gather_async([image.levels[None] for image in images if image.levels is not None], vlm.device)
    arrived = to_host_async(encode_pixels(vlm.model, pixels_at(levels, table)))

    def store() -> None:
        for image, tokens in zip(images, arrived().clone(), strict=True):
            vlm.image_tokens[image.path] = tokens
            if image.cache_file is not None:
                write_tokens(image.cache_file, tokens)

    return store


def make_contiguous(model: Any) -> Any:
    """Make the vision tower compute on contiguous hidden states, in place; call it once on a loaded model.

    The patch embedding, a convolution, returns a transposed tensor, and every sum and layer norm of the tower keeps
    that strided layout: 525 ms against 418 ms for 32 images of 896 x 896 pixels on an H100. Returns the handle of the
    hook.
    """
    tower = model.model.vision_tower
    # Older versions of transformers nest the parts of the tower one level deeper.
    embeddings = getattr(tower, "vision_model", tower).embeddings
    return embeddings.register_forward_hook(lambda module, inputs, output: output.contiguous())


def encode_pixels(model: Any, pixels: Tensor) -> Tensor:
    """Encode pixels [b, 3, h, w] into projected image tokens [b, image tokens, d_model]."""
    return model.model.get_image_features(pixels, return_dict=True).pooler_output

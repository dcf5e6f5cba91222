"""The image tokens of every image, computed once: pictures through the vision tower and the projector.

The next images are read and decoded while these pass the tower, and tokens are fetched one batch behind.
"""

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from interp.images.decode import NO_IMAGE, open_image
from interp.model.image_token_cache import ImageCache, open_cache, read_tokens, write_tokens
from interp.runtime.async_copies import to_device_async, to_host_async
from interp.runtime.distributed import Team
from interp.runtime.prefetch import map_ahead
from interp.runtime.progress import track

if TYPE_CHECKING:
    from interp.model.vlm import Vlm

log = logging.getLogger(__name__)
EXCHANGE_SIZE = 64
"""Images whose tokens go from process to process at once."""
MAX_WAITING_IMAGES = 32
"""Decoded images that wait for the tower at most; one of 896 pixels takes 5 MB."""


class LoadedImage(NamedTuple):
    """One image file that was looked at: its tokens were on disk, or it has been decoded."""

    path: str
    """Of the image."""
    kept_at: Path | None
    """Where its tokens are kept on disk; None if they are not to be."""
    tokens: Tensor | None
    """[image tokens, d_model] as they were kept, None if they were not."""
    pixels: Tensor | None
    """[3, h, w] for the tower, None if the tokens were kept."""


@torch.no_grad()
def encode_images(vlm: "Vlm", paths: Sequence[str], batch_size: int = 8) -> None:
    """Run every image not met before through the vision tower and projector, into `vlm.image_tokens`.

    Eight images keep a GPU busy, and more would wait for longer to be decoded. With `vlm.image_cache`, tokens that are
    there are taken from it and the others put into it. Raises InputError for an image that can not be read.
    """
    vlm.image_tokens.setdefault(NO_IMAGE, torch.empty(0, vlm.d_model))
    missing = [p for p in dict.fromkeys(paths) if p not in vlm.image_tokens]
    look = partial(_load_image, vlm, open_cache(vlm) if missing else None)
    former: Callable[[], None] | None = None
    cached = 0
    with closing(map_ahead(look, missing, decoder_threads(vlm.device), MAX_WAITING_IMAGES)) as looks:
        for _ in track(range(0, len(missing), batch_size), "images", unit=batch_size):
            chunk = list(islice(looks, batch_size))
            known = {seen.path: seen.tokens for seen in chunk if seen.tokens is not None}
            vlm.image_tokens.update(known)
            cached += len(known)
            launched = _launch_encoder(vlm, [seen for seen in chunk if seen.tokens is None])
            if former is not None:
                former()
            former = launched
    if former is not None:
        former()
    if cached:
        log.info("%d of %d images from the image cache", cached, len(missing))


def encode_together(vlm: "Vlm", paths: Sequence[str], team: Team) -> None:
    """As `encode_images`; each process runs its part of the images through the tower, and all get the tokens of all."""
    missing = [path for path in dict.fromkeys(paths) if path not in vlm.image_tokens and path != NO_IMAGE]
    parts = [team.block(missing, rank) for rank in range(team.size)]
    encode_images(vlm, parts[team.rank])
    if team.size == 1:
        return
    none = torch.empty(0, vlm.model.config.mm_tokens_per_image, vlm.d_model, dtype=vlm.tower_dtype)
    for start in range(0, max(map(len, parts)), EXCHANGE_SIZE):
        of_all = [part[start : start + EXCHANGE_SIZE] for part in parts]
        mine = of_all[team.rank]
        own = to_device_async(torch.stack([vlm.image_tokens[path] for path in mine]) if mine else none, vlm.device)
        lengths = [len(part) for part in of_all]
        found = [team.gather_to(rank, own, lengths) for rank in range(team.size)][team.rank]
        vlm.image_tokens.update(zip(chain(*of_all), to_host_async(torch.cat(found))().clone(), strict=True))


def decoder_threads(device: torch.device) -> int:
    """Threads that read and decode images: few where torch computes on the same cores."""
    return min(16 if device.type != "cpu" else 2, os.cpu_count() or 1)


def _load_image(vlm: "Vlm", cache: ImageCache | None, path: str) -> LoadedImage:
    file = None if cache is None else cache.file_of(path)
    tokens = None if file is None else read_tokens(file)
    if tokens is not None:
        return LoadedImage(path, file, tokens, None)
    return LoadedImage(path, file, None, pixels_of(vlm, [open_image(path)])[0].to(vlm.tower_dtype))


def _launch_encoder(vlm: "Vlm", looks: Sequence[LoadedImage]) -> Callable[[], None]:
    """Send decoded images through the tower; to call what comes back waits for their tokens and keeps them."""
    if not looks:
        return lambda: None
    pixels = torch.stack([seen.pixels for seen in looks if seen.pixels is not None])
    arrived = to_host_async(encode_pixels(vlm.model, to_device_async(pixels, vlm.device)))

    def keep() -> None:
        for seen, tokens in zip(looks, arrived().clone(), strict=True):
            vlm.image_tokens[seen.path] = tokens
            if seen.kept_at is not None:
                write_tokens(seen.kept_at, tokens)

    return keep


def pixels_of(vlm: "Vlm", pictures: Sequence[Any]) -> Tensor:
    """PIL pictures as the vision tower takes them, resized and normalized by the model's processor: [b, 3, h, w]."""
    return vlm.processor.image_processor(list(pictures), return_tensors="pt")["pixel_values"]


def make_contiguous(model: Any) -> Any:
    """Make the vision tower compute on contiguous hidden states, in place; to be called once on a loaded model.

    Returns the hook's handle.

    The patch embedding is a convolution and hands on its output transposed. Every sum and layer norm of the tower keeps
    that layout and is strided: on an H100, 525 ms for 32 images of 896 pixels against 418.
    """
    tower = model.model.vision_tower
    # Older transformers have the tower's parts one level deeper.
    embeddings = getattr(tower, "vision_model", tower).embeddings
    return embeddings.register_forward_hook(lambda module, inputs, output: output.contiguous())


def encode_pixels(model: Any, pixels: Tensor) -> Tensor:
    """Pixels [b, 3, h, w] -> projected image tokens [b, image tokens, d_model]."""
    return model.model.get_image_features(pixels, return_dict=True).pooler_output

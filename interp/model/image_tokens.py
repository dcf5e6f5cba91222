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
from interp.model.image_token_cache import ImageCache, image_cache, read_tokens, write_tokens
from interp.runtime.async_copies import fetched, sent
from interp.runtime.distributed import Team
from interp.runtime.prefetch import ahead
from interp.runtime.progress import track

if TYPE_CHECKING:
    from interp.model.vlm import Vlm

log = logging.getLogger(__name__)
EXCHANGED = 64
"""Images whose tokens go from process to process at once."""
LOOK_AHEAD = 32
"""Decoded images that wait for the tower at most; one of 896 pixels takes 5 MB."""


class Look(NamedTuple):
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
    """Run every image not met before through the vision tower and projector, into `vlm.features`.

    Eight images keep a GPU busy, and more would wait for longer to be decoded. With `vlm.image_cache`, tokens that are
    there are taken from it and the others put into it. Raises InputError for an image that can not be read.
    """
    vlm.features.setdefault(NO_IMAGE, torch.empty(0, vlm.d_model))
    missing = [p for p in dict.fromkeys(paths) if p not in vlm.features]
    look = partial(_look, vlm, image_cache(vlm) if missing else None)
    former: Callable[[], None] | None = None
    cached = 0
    with closing(ahead(look, missing, decoders(vlm.device), LOOK_AHEAD)) as looks:
        for _ in track(range(0, len(missing), batch_size), "images", unit=batch_size):
            chunk = list(islice(looks, batch_size))
            known = {seen.path: seen.tokens for seen in chunk if seen.tokens is not None}
            vlm.features.update(known)
            cached += len(known)
            launched = _launch(vlm, [seen for seen in chunk if seen.tokens is None])
            if former is not None:
                former()
            former = launched
    if former is not None:
        former()
    if cached:
        log.info("%d of %d images from the image cache", cached, len(missing))


def encode_together(vlm: "Vlm", paths: Sequence[str], team: Team) -> None:
    """As `encode_images`; each process runs its part of the images through the tower, and all get the tokens of all."""
    missing = [path for path in dict.fromkeys(paths) if path not in vlm.features and path != NO_IMAGE]
    parts = [team.block(missing, rank) for rank in range(team.size)]
    encode_images(vlm, parts[team.rank])
    if team.size == 1:
        return
    none = torch.empty(0, vlm.model.config.mm_tokens_per_image, vlm.d_model, dtype=vlm.tower_dtype)
    for start in range(0, max(map(len, parts)), EXCHANGED):
        of_all = [part[start : start + EXCHANGED] for part in parts]
        mine = of_all[team.rank]
        own = sent(torch.stack([vlm.features[path] for path in mine]) if mine else none, vlm.device)
        lengths = [len(part) for part in of_all]
        found = [team.sent_to(rank, own, lengths) for rank in range(team.size)][team.rank]
        vlm.features.update(zip(chain(*of_all), fetched(torch.cat(found))().clone(), strict=True))


def decoders(device: torch.device) -> int:
    """Threads that read and decode images: few where torch computes on the same cores."""
    return min(16 if device.type != "cpu" else 2, os.cpu_count() or 1)


def _look(vlm: "Vlm", cache: ImageCache | None, path: str) -> Look:
    file = None if cache is None else cache.file_of(path)
    tokens = None if file is None else read_tokens(file)
    if tokens is not None:
        return Look(path, file, tokens, None)
    return Look(path, file, None, pixels_of(vlm, [open_image(path)])[0].to(vlm.tower_dtype))


def _launch(vlm: "Vlm", looks: Sequence[Look]) -> Callable[[], None]:
    """Send decoded images through the tower; to call what comes back waits for their tokens and keeps them."""
    if not looks:
        return lambda: None
    pixels = torch.stack([seen.pixels for seen in looks if seen.pixels is not None])
    arrived = fetched(image_tokens(vlm.model, sent(pixels, vlm.device)))

    def keep() -> None:
        for seen, tokens in zip(looks, arrived().clone(), strict=True):
            vlm.features[seen.path] = tokens
            if seen.kept_at is not None:
                write_tokens(seen.kept_at, tokens)

    return keep


def pixels_of(vlm: "Vlm", pictures: Sequence[Any]) -> Tensor:
    """PIL pictures as the vision tower takes them, resized and normalized by the model's processor: [b, 3, h, w]."""
    return vlm.processor.image_processor(list(pictures), return_tensors="pt")["pixel_values"]


def straighten(model: Any) -> Any:
    """Make the vision tower compute on contiguous hidden states, in place; to be called once on a loaded model.

    Returns the hook's handle.

    The patch embedding is a convolution and hands on its output transposed. Every sum and layer norm of the tower keeps
    that layout and is strided: on an H100, 525 ms for 32 images of 896 pixels against 418.
    """
    tower = model.model.vision_tower
    # Older transformers have the tower's parts one level deeper.
    embeddings = getattr(tower, "vision_model", tower).embeddings
    return embeddings.register_forward_hook(lambda module, inputs, output: output.contiguous())


def image_tokens(model: Any, pixels: Tensor) -> Tensor:
    """Pixels [b, 3, h, w] -> projected image tokens [b, image tokens, d_model]."""
    return model.model.get_image_features(pixels, return_dict=True).pooler_output

"""Occlusion: removing parts of an image and measuring the answer, the causal reference for saliency maps.

After Zeiler and Fergus, arXiv 1311.2901. All variants of an image are encoded in batches, and all wordings about it are
packed after each variant, so that an image takes a few forward passes. No image token is cached.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from interp.images.decode import BLANK_IMAGE, open_image
from interp.model.decoder import final_logits
from interp.model.image_tokens import encode_pixels
from interp.model.memory_model import occluded_images
from interp.model.packing import Batch, Row, batches, collate, pack
from interp.model.pixels import pixels_of
from interp.model.prompts import answer_margin, prompt_tokens
from interp.model.room import room
from interp.model.vlm import Vlm

Fill = Literal["grey", "blur", "mean"]
"""What replaces a removed part: mid-grey, the image blurred beyond detail, or the mean colour of the image."""
BLUR = 1 / 8
"""Standard deviation of the blur [widths of the image]."""
BATCH_TOKENS = 4096
"""Positions in a batch of the language model: enough to keep a GPU busy, few enough for a CPU's cache."""


def image_pixels(vlm: Vlm, path: str) -> Tensor:
    """The pixels [3, h, w] of one image on the model's device. Raises InputError if it cannot be read."""
    return pixels_of(vlm, [open_image(path)])[0].to(vlm.device, vlm.tower_dtype)


def make_fill(vlm: Vlm, pixels: Tensor, fill: Fill) -> Tensor:
    """The replacement [3, h, w] for every pixel of an image [3, h, w] that is removed."""
    if fill == "grey":
        return image_pixels(vlm, BLANK_IMAGE)
    if fill == "mean":
        return pixels.float().mean((1, 2), keepdim=True).to(pixels.dtype).expand_as(pixels)
    down, across = (_gaussian(n, pixels.device) for n in pixels.shape[1:])
    return (down @ pixels.float() @ across.T).to(pixels.dtype)


def _gaussian(n: int, device: torch.device) -> Tensor:
    """The matrix [n, n] that blurs n values; each row sums to one, at the edges too."""
    place = torch.arange(n, device=device, dtype=torch.float32)
    return (-0.5 * ((place[:, None] - place) / (BLUR * n)) ** 2).softmax(1)


def occlude(pixels: Tensor, filled: Tensor, removed: Tensor) -> Tensor:
    """The image [3, h, w] with `filled` [3, h, w] in the removed cells, for v variants: [v, 3, h, w].

    `removed` bool [v, rows, columns] is a grid over the image, at most as fine as its pixels; rows must divide h and
    columns w.
    """
    down, across = (n // cells for n, cells in zip(pixels.shape[1:], removed.shape[1:], strict=True))
    mask = removed.to(pixels.device).repeat_interleave(down, 1).repeat_interleave(across, 2)
    return torch.where(mask[:, None], filled, pixels)


@torch.no_grad()
def encode_occluded(
    vlm: Vlm, pixels: Tensor, filled: Tensor, removed: Tensor, image_batch: int | None = None
) -> Tensor:
    """Image tokens of the variants from `occlude`: [v, image tokens, d_model], on the model's device.

    `image_batch` of them are encoded together, by default as many as there is memory for.
    """
    parts = _split(vlm, removed, image_batch)
    return torch.cat([encode_pixels(vlm.model, occlude(pixels, filled, part)) for part in parts])


@torch.no_grad()
def image_margins(
    vlm: Vlm,
    pixels: Tensor,
    texts: Sequence[str],
    closed: Sequence[bool],
    image_batch: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> Tensor:
    """Answer margins of every wording on every image: float32 [v, t] in main memory [logits].

    `pixels` [v, 3, h, w] are those of any images; `texts` [t] are the wordings put to each, and `closed` [t] marks the
    yes/no questions. `image_batch` images are encoded together, by default as many as there is memory for.
    """
    parts = _split(vlm, pixels, image_batch)
    tokens = torch.cat([encode_pixels(vlm.model, part.to(vlm.device, vlm.tower_dtype)) for part in parts])
    return token_margins(vlm, tokens, texts, closed, batch_tokens)


def _split(vlm: Vlm, variants: Tensor, image_batch: int | None) -> Iterable[Tensor]:
    """The variants [v, ...] of an image in parts that are encoded together, of `image_batch` or of what has room."""
    return variants.split(occluded_images(*room(vlm)) if image_batch is None else image_batch)


@torch.no_grad()
def token_margins(
    vlm: Vlm, tokens: Tensor, texts: Sequence[str], closed: Sequence[bool], batch_tokens: int = BATCH_TOKENS
) -> Tensor:
    """`image_margins` of images given by their `tokens` [v, image tokens, d_model]: float32 [v, t] [logits]."""
    margins = torch.empty(len(tokens) * len(texts))
    for batch, images in variant_batches(vlm, pack_wordings(vlm, texts, closed), tokens, batch_tokens):
        margins[batch.prompts] = answer_margin(final_logits(vlm.model, batch, images), vlm.answers).cpu()
    return margins.reshape(len(tokens), len(texts))


def pack_wordings(vlm: Vlm, texts: Sequence[str], closed: Sequence[bool], together: bool = True) -> list[Row]:
    """Rows with the wordings about one image, packed `together` after a shared prefix or each in a row of its own."""
    tokens = prompt_tokens(vlm.processor, texts, closed, vlm.style)
    groups = [0] * len(tokens) if together else range(len(tokens))
    return pack(tokens, groups, vlm.model.config.image_token_id)


def variant_batches(vlm: Vlm, rows: Sequence[Row], tokens: Tensor, batch_tokens: int) -> Iterator[tuple[Batch, Tensor]]:
    """Batches of an image's t wordings, packed in `rows`, on each of its v variants, on the model's device.

    `tokens` [v, image tokens, d_model] are those of the variants. Index i * t + k in a batch is wording k on variant i.
    Each batch comes with the image tokens of its rows [rows, image tokens, d_model].
    """
    count = sum(len(row.prompts) for row in rows)
    every = [row._replace(prompts=[v * count + k for k in row.prompts]) for v in range(len(tokens)) for row in rows]
    for chunk in batches(every, batch_tokens, vlm.device):
        batch = collate(chunk, vlm.model.config.text_config.pad_token_id or 0).to(vlm.device)
        yield batch, tokens[[row.prompts[0] // count for row in chunk]]


def single_cells(side: int) -> Tensor:
    """Variants that each remove one cell of a grid, row by row: bool [side * side, side, side]."""
    return torch.eye(side * side, dtype=torch.bool).reshape(-1, side, side)

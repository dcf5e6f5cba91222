"""Images with parts taken away, and what that does to the answer: the causal reference for every other map.

All variants of an image go through the vision tower in batches, and all wordings of it are packed behind each, so that
the occlusions of an image are a few forward passes. Nothing of it is kept (Zeiler and Fergus, arXiv 1311.2901).
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from interp.images.decode import BLANK_IMAGE, open_image
from interp.model.decoder import final_logits
from interp.model.image_tokens import encode_pixels, pixels_of
from interp.model.packing import Batch, Row, batches, collate, pack
from interp.model.prompts import answer_margin, prompt_tokens
from interp.model.vlm import Vlm

Fill = Literal["grey", "blur", "mean"]
"""What a part is replaced by: mid-grey, the image blurred until no detail is left, or the image's mean colour."""
BLUR = 1 / 8
"""Standard deviation of the blur, in widths of the image."""
IMAGE_BATCH = 32
"""Variants that meet the vision tower together."""
BATCH_TOKENS = 4096
"""Positions of a batch of the language model: a GPU is busy with it, and it stays in the cache of a CPU."""


def image_pixels(vlm: Vlm, path: str) -> Tensor:
    """One image as the vision tower takes it: [3, h, w] on its device. Raises InputError if it can not be read."""
    return pixels_of(vlm, [open_image(path)])[0].to(vlm.device, vlm.tower_dtype)


def make_fill(vlm: Vlm, pixels: Tensor, fill: Fill) -> Tensor:
    """What replaces every pixel of an image [3, h, w] where it is taken away: [3, h, w]."""
    if fill == "grey":
        return image_pixels(vlm, BLANK_IMAGE)
    if fill == "mean":
        return pixels.float().mean((1, 2), keepdim=True).to(pixels.dtype).expand_as(pixels)
    down, across = (_gaussian(n, pixels.device) for n in pixels.shape[1:])
    return (down @ pixels.float() @ across.T).to(pixels.dtype)


def _gaussian(n: int, device: torch.device) -> Tensor:
    """The matrix [n, n] that blurs n values; at the edges the weights of what is there are made to add up to one."""
    place = torch.arange(n, device=device, dtype=torch.float32)
    return (-0.5 * ((place[:, None] - place) / (BLUR * n)) ** 2).softmax(1)


def occlude(pixels: Tensor, filled: Tensor, removed: Tensor) -> Tensor:
    """An image [3, h, w] with `filled` [3, h, w] wherever `removed` says so: [v, 3, h, w].

    `removed` bool [v, rows, columns] is a grid over the image for each of v variants, up to one cell a pixel; its rows
    and columns must divide h and w.
    """
    down, across = (n // cells for n, cells in zip(pixels.shape[1:], removed.shape[1:], strict=True))
    mask = removed.to(pixels.device).repeat_interleave(down, 1).repeat_interleave(across, 2)
    return torch.where(mask[:, None], filled, pixels)


@torch.no_grad()
def encode_occluded(
    vlm: Vlm, pixels: Tensor, filled: Tensor, removed: Tensor, image_batch: int = IMAGE_BATCH
) -> Tensor:
    """Image tokens of the variants that `occlude` makes: [v, image tokens, d_model], on the model's device."""
    chunks = [encode_pixels(vlm.model, occlude(pixels, filled, part)) for part in removed.split(image_batch)]
    return torch.cat(chunks)


@torch.no_grad()
def image_margins(
    vlm: Vlm,
    pixels: Tensor,
    texts: Sequence[str],
    closed: Sequence[bool],
    image_batch: int = IMAGE_BATCH,
    batch_tokens: int = BATCH_TOKENS,
) -> Tensor:
    """Answer margins of every wording on every image: float32 [v, t] in main memory [logits].

    `pixels` [v, 3, h, w] are of any images; `texts` and `closed` [t] are the wordings put to each, and which of them
    are yes/no questions.
    """
    chunks = [encode_pixels(vlm.model, part.to(vlm.device, vlm.tower_dtype)) for part in pixels.split(image_batch)]
    return token_margins(vlm, torch.cat(chunks), texts, closed, batch_tokens)


@torch.no_grad()
def token_margins(
    vlm: Vlm, tokens: Tensor, texts: Sequence[str], closed: Sequence[bool], batch_tokens: int = BATCH_TOKENS
) -> Tensor:
    """As `image_margins`, of images that have met the vision tower: `tokens` [v, image tokens, d_model] -> [v, t]."""
    margins = torch.empty(len(tokens) * len(texts))
    for batch, images in variant_batches(vlm, pack_wordings(vlm, texts, closed), tokens, batch_tokens):
        margins[batch.prompts] = answer_margin(final_logits(vlm.model, batch, images), vlm.answers).cpu()
    return margins.reshape(len(tokens), len(texts))


def pack_wordings(vlm: Vlm, texts: Sequence[str], closed: Sequence[bool], together: bool = True) -> list[Row]:
    """Rows of the wordings of one image: behind one shared prefix, or each in a row of its own."""
    tokens = prompt_tokens(vlm.processor, texts, closed, vlm.style)
    groups = [0] * len(tokens) if together else range(len(tokens))
    return pack(tokens, groups, vlm.model.config.image_token_id)


def variant_batches(vlm: Vlm, rows: Sequence[Row], tokens: Tensor, batch_tokens: int) -> Iterator[tuple[Batch, Tensor]]:
    """All `rows` of an image's t wordings behind each of its v variants, in batches, on the model's device.

    `tokens` [v, image tokens, d_model] are those of the variants. Prompt v * t + k of a batch is wording k on variant
    v; beside it are the image tokens of the batch's rows [rows, image tokens, d_model].
    """
    count = sum(len(row.prompts) for row in rows)
    every = [row._replace(prompts=[v * count + k for k in row.prompts]) for v in range(len(tokens)) for row in rows]
    for chunk in batches(every, batch_tokens):
        batch = collate(chunk, vlm.model.config.text_config.pad_token_id or 0).to(vlm.device)
        yield batch, tokens[[row.prompts[0] // count for row in chunk]]


def single_cells(side: int) -> Tensor:
    """One cell of a grid removed in each variant, row by row: bool [side * side, side, side]."""
    return torch.eye(side * side, dtype=torch.bool).reshape(-1, side, side)

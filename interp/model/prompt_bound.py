"""An upper bound on the tokens of some prompts, which is known before a tokenizer is loaded."""

from typing import NamedTuple

import pandas as pd

from interp.images.decode import NO_IMAGE
from interp.model.prompts import PromptStyle
from interp.model.shape import ModelShape

BYTES = 2
"""Fewest bytes of text to a token, on average over a wording. Gemma's tokenizer has four in English, and three in
Chinese."""
TEMPLATE = 24
"""Most tokens that a chat template adds to a wording, those of the image not counted."""
NORMAL_FORM = 16
"""Most tokens that a normal form adds to a wording: "Is ... present in this chest radiograph?"."""
ROW = 512
"""Least length of a row of a packed batch at which the prompts about an image go on in another one, and at least four
times that of the image [tokens] (`interp.model.packing.pack`)."""


class PromptBound(NamedTuple):
    """Prompts in packed batches, where rows are padded to the longest one (`interp.model.packing`)."""

    lengths: tuple[int, ...]
    """Most tokens of the prompts that are packed together, those of their image not counted: all prompts about an
    image, or a prompt alone where prompts about an image share no beginning."""
    counts: tuple[int, ...]
    """Number of the prompts that are packed together."""
    longest: int
    """Most tokens of one prompt, those of its image not counted."""
    new_tokens: int = 0
    """Most tokens that are generated after each prompt."""

    @property
    def text(self) -> int:
        """Most tokens of all prompts, those of images not counted."""
        return sum(self.lengths)

    def tokens(self, shape: ModelShape) -> int:
        """Most positions of all prompts in one batch for a model of this shape, generated tokens not counted."""
        # What a row shares, and with it four times as much of its limit, is less than a prompt.
        longest = _room(shape) + 4 * self.longest
        return sum(self._rows(shape)) * (shape.image_tokens + min(longest, max(self.lengths, default=0)))

    def growth(self, shape: ModelShape) -> float:
        """The share of a batch, at least, by which answers lengthen it: `generate` leaves as much room for them."""
        packed = zip(self._rows(shape), self.lengths, self.counts, strict=True)
        shares = (self.new_tokens * n / (rows * shape.image_tokens + length) for rows, length, n in packed)
        return max(shares, default=0.0)

    def _rows(self, shape: ModelShape) -> list[int]:
        """Most rows of the prompts that are packed together."""
        return [1 + length // _room(shape) for length in self.lengths]


def _room(shape: ModelShape) -> int:
    """Least tokens of text in a row before prompts go on in another one."""
    return max(ROW, 4 * shape.image_tokens) - shape.image_tokens


def prompt_bound(prompts: pd.DataFrame, style: PromptStyle, new_tokens: int = 0, together: bool = True) -> PromptBound:
    """The bound for the rows of a prompt table in a style, each followed by up to `new_tokens` generated ones.

    The table has columns `image` and `text`. Without `together`, every prompt has a row of its own.
    """
    always = "".join(text or "" for text in (style.system, style.answer_instruction))
    added = TEMPLATE + (NORMAL_FORM if style.normalize else 0)
    length = prompts["text"].map(lambda text: -(-len((text + always).encode()) // BYTES) + added)
    packed = together & style.image_first & (prompts["image"] != NO_IMAGE).to_numpy()
    groups = length[packed].groupby(prompts["image"][packed])
    lengths = (*map(int, length[~packed]), *map(int, groups.sum()))
    counts = (*[1] * int((~packed).sum()), *map(int, groups.size()))
    return PromptBound(lengths, counts, int(length.max()) if len(length) else 0, new_tokens)

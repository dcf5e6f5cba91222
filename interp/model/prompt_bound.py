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
ROW = 384
"""Least tokens of text in a row of a packed batch before the prompts about an image go on in another one, and at least
three times those of the image."""


class PromptBound(NamedTuple):
    """Prompts in a packed batch, where rows are padded to the longest one (`interp.model.packing`)."""

    lengths: tuple[int, ...]
    """Most tokens of the prompts that are packed together, those of their image not counted: all prompts about an
    image, or a prompt alone where prompts about an image share no beginning."""
    generated: int = 0
    """Most tokens that are generated in the batch, over all prompts."""

    def tokens(self, shape: ModelShape) -> int:
        """Most positions of the batch for a model of this shape, generated tokens not counted."""
        row = max(ROW, 3 * shape.image_tokens)
        rows = sum(1 + length // row for length in self.lengths)
        return rows * (shape.image_tokens + max(self.lengths, default=0))


def prompt_bound(prompts: pd.DataFrame, style: PromptStyle, new_tokens: int = 0) -> PromptBound:
    """The bound for the rows of a prompt table in a style, each followed by up to `new_tokens` generated ones.

    The table has columns `image` and `text`.
    """
    always = "".join(text or "" for text in (style.system, style.answer_instruction))
    added = TEMPLATE + (NORMAL_FORM if style.normalize else 0)
    length = prompts["text"].map(lambda text: -(-len((text + always).encode()) // BYTES) + added)
    packed = style.image_first & (prompts["image"] != NO_IMAGE).to_numpy()
    together = length[packed].groupby(prompts["image"][packed]).sum()
    return PromptBound((*map(int, length[~packed]), *map(int, together)), new_tokens * len(prompts))

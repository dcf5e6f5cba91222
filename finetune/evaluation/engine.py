"""What an evaluation asks of a model: margins, first tokens and greedy answers, whatever computes them."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interp.measurement.generate import generate
from interp.measurement.margins import measure
from interp.model.blank_images import encode_blanks
from interp.model.vlm import Vlm
from interp.statistics import FloatArray


class FirstTokens(NamedTuple):
    """A model's response to each of n prompts at the first position of the answer."""

    margin: FloatArray
    """[n] answer margin [logits], positive for yes."""
    top_token: NDArray[np.int64]
    """[n] id of the most probable token."""


class Engine(Protocol):
    """A loaded model with a way to ask it. A prompt table has the columns `image`, `text` and `closed`."""

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""

    @property
    def own_limit(self) -> int | None:
        """Most tokens that the model's own generation config lets it answer with; None for no limit."""

    def prepare_blanks(self, images: Sequence[str], seed: int) -> None:
        """Make the blank images that `interp.model.blank_images` names; `images` are those that `mean` averages."""

    def first_tokens(self, prompts: pd.DataFrame, description: str) -> FirstTokens:
        """The margin and the first token of every row of a prompt table; `description` labels the progress bar."""

    def answers(self, prompts: pd.DataFrame, max_new_tokens: int, description: str) -> list[str]:
        """The greedy answer to every row of a prompt table, stripped, without special tokens."""


class PackedEngine:
    """A Gemma 3 model in the packed engine (`interp.measurement`), in its present state."""

    def __init__(self, vlm: Vlm) -> None:
        self.vlm = vlm

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.vlm.processor.tokenizer

    @property
    def own_limit(self) -> int | None:
        """Most tokens that the model's own generation config lets it answer with; None for no limit."""
        return self.vlm.model.generation_config.max_new_tokens

    def prepare_blanks(self, images: Sequence[str], seed: int) -> None:
        """Encode the blank images; raises InputError for an unreadable image."""
        encode_blanks(self.vlm, images, seed)

    def first_tokens(self, prompts: pd.DataFrame, description: str) -> FirstTokens:
        """`interp.measurement.margins.measure`."""
        found = measure(self.vlm, prompts, description=description)
        return FirstTokens(found.margin.double().numpy(), found.top_token.numpy())

    def answers(self, prompts: pd.DataFrame, max_new_tokens: int, description: str) -> list[str]:
        """`interp.measurement.generate.generate`."""
        return generate(self.vlm, prompts, max_new_tokens, description=description)

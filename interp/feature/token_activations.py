"""The activations of some features at the text tokens of many wordings."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from interp.images.decode import NO_IMAGE
from interp.measurement.margins import Capture, load_batches, text_places
from interp.model.decoder import run_below
from interp.model.memory_model import passing_tokens
from interp.model.packing import batches, common_prefix, pack
from interp.model.prompts import prompt_tokens
from interp.model.room import room
from interp.model.vlm import Vlm
from interp.saes.sae import Sae


class TokenActivations(NamedTuple):
    """Features of one SAE at the text tokens of n wordings, without image tokens and what all prompts begin with."""

    features: list[int]
    """Their numbers in the SAE, k of them."""
    tokens: list[NDArray[np.int64]]
    """[tokens] ids of the text tokens of each wording, with those that the chat template appends."""
    activations: list[NDArray[np.float32]]
    """[tokens, k] activations at these tokens."""

    def of(self, place: int) -> NDArray[np.float32]:
        """[all tokens]: the activations of the feature at `place` of `features`, wording after wording."""
        return np.concatenate([values[:, place] for values in self.activations])


@torch.no_grad()
def token_activations(
    vlm: Vlm, sae: Sae, features: Sequence[int], prompts: pd.DataFrame, batch_tokens: int | None = None
) -> TokenActivations:
    """The activations of `features` of an SAE at the text tokens of a prompt table, in one pass over it.

    The tokens with which all of its prompts begin are left out. Batches hold `batch_tokens` positions, by default as
    many as there is memory for.
    """
    if batch_tokens is None:
        batch_tokens = passing_tokens(*room(vlm), captured=1)
    with_image = list(prompts["image"] != NO_IMAGE)
    ids = prompt_tokens(vlm.processor, list(prompts["text"]), list(prompts["closed"]), vlm.style, with_image)
    start = common_prefix(ids)
    # Each wording has a row of its own, so the first index of a place tells its wording.
    rows = pack(ids, range(len(prompts)), vlm.model.config.image_token_id)
    columns = torch.tensor(list(features), device=vlm.device)
    tokens: list[NDArray[np.int64]] = [np.empty(0, np.int64)] * len(prompts)
    activations: list[NDArray[np.float32]] = [np.empty((0, len(features)), np.float32)] * len(prompts)
    for batch, images in load_batches(vlm, batches(rows, batch_tokens, vlm.device), prompts, "activations"):
        places = text_places(vlm, batch, start)
        capture = Capture(vlm, batch, places, [sae.layer])
        run_below(vlm.model, batch, images, sae.layer + 1, after=capture)
        found = sae.encode(capture.found[sae.layer].float(), columns).cpu().numpy()
        ids_there, owner = batch.input_ids[places[:, 0], places[:, 1]].cpu().numpy(), places[:, 0].cpu().numpy()
        for row, prompt in enumerate(batch.prompts):
            tokens[prompt], activations[prompt] = ids_there[owner == row], found[owner == row]
    return TokenActivations(list(features), tokens, activations)

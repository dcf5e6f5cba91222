"""The hidden states below the lowest trained layer: nothing there changes, so they are computed once, not every epoch.

The hidden state of a token depends on the image and on the tokens of its own prompt, not on how prompts are packed. So
the states are stored token by token, up to the end of the image once per image and after it once per wording, and are
arranged anew for every batch.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention import sdpa_kernel

from interp.model.decoder import DECODE_KERNELS, batch_masks, embed, run_layers
from interp.model.memory_model import passing_tokens
from interp.model.packing import Batch, Row, batches, collate, pack
from interp.model.prompts import prompt_tokens
from interp.model.room import room
from interp.model.vlm import Vlm
from interp.runtime.async_copies import gather_async, pipeline_to_host, to_device_async, to_device_beside
from interp.runtime.progress import track

MASK_ROW = 16
"""Rows are padded to a multiple of this. Attention kernels on a GPU need it; else every layer would copy the mask."""
KEPT_AT_ONCE = 8192
"""Most positions that pass the frozen layers at once. More would not keep a GPU busier, and copies of their states to
main memory, which go on beside the next ones, would begin later."""
PROMPTS = 2048
"""Prompts that are packed at a time, because the token lists of all prompts would take much memory."""


class Prompt(NamedTuple):
    """One wording, asked about one image."""

    image: str
    """Path of the image, or BLANK_IMAGE."""
    text: str
    """The wording."""
    closed: bool
    """Whether it asks for yes or no."""


class StateRows(NamedTuple):
    """The rows of the table that hold the states of a prompt."""

    image: int
    """Row of the first token. Those up to the end of the image follow; other wordings share them."""
    cut: int
    """Number of tokens up to the end of the image."""
    text: int
    """Row of the first token after the image."""


class PrefixStates:
    """The states that enter the lowest trained layer; for prompts that were given to `keep` they are computed once."""

    def __init__(self, vlm: Vlm) -> None:
        self.vlm = vlm
        self.first = lowest_trained(vlm.model)
        """The lowest trained layer."""
        self._tokens: dict[tuple[str, bool], NDArray[np.int32]] = {}
        self._kept: dict[Prompt, StateRows] = {}
        self._states = torch.empty(0, vlm.d_model, dtype=vlm.model.dtype)
        """[stored tokens, d_model], in main memory."""

    def tokenize(self, prompts: Sequence[Prompt]) -> None:
        """Tokenize the wordings of some prompts, equal ones once, for `tokens_of`."""
        new = list(dict.fromkeys((p.text, p.closed) for p in prompts if (p.text, p.closed) not in self._tokens))
        for start in range(0, len(new), PROMPTS):
            part = new[start : start + PROMPTS]
            texts, closed = [text for text, _ in part], [is_closed for _, is_closed in part]
            found = prompt_tokens(self.vlm.processor, texts, closed, self.vlm.style)
            self._tokens |= {key: np.array(ids, np.int32) for key, ids in zip(part, found, strict=True)}

    def tokens_of(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Token ids of every prompt."""
        self.tokenize(prompts)
        return [self._tokens[p.text, p.closed].tolist() for p in prompts]

    def pack(self, prompts: Sequence[Prompt], questions: Sequence[int] | None = None) -> list[Row]:
        """The prompts packed by image, and by the numbers of their questions if given (`interp.model.packing.pack`)."""
        numbers = [0] * len(prompts) if questions is None else questions
        groups = [(prompt.image, number) for prompt, number in zip(prompts, numbers, strict=True)]
        return pack(self.tokens_of(prompts), groups, self.vlm.model.config.image_token_id)

    def collate(self, rows: Sequence[Row]) -> Batch:
        """Make one batch of packed rows, in main memory."""
        return collate(rows, self.vlm.model.config.text_config.pad_token_id or 0, MASK_ROW)

    def inputs(self, prompts: Sequence[Prompt], rows: Sequence[Row], batch: Batch) -> Tensor:
        """The states that enter the lowest trained layer for a batch of packed `rows`: [B, S, d_model].

        They and `batch` are on the model's device; its images must have been encoded. Rows with a prompt that is not
        stored are computed.
        """
        kept, missing = {}, []
        for r, row in enumerate(rows):
            if all(prompts[i] in self._kept for i in row.prompts):
                kept[r] = row
            else:
                missing.append(r)
        if not kept:
            return self._run(prompts, rows, batch)
        shape = batch.input_ids.shape
        positions, places = self._places(prompts, kept, shape[1])
        index = np.zeros(shape.numel(), dtype=np.int64)
        index[positions] = places
        on_gpu = self.vlm.device.type == "cuda"
        gathered = torch.empty(len(index), self.vlm.d_model, dtype=self._states.dtype, pin_memory=on_gpu)
        torch.index_select(self._states, 0, torch.from_numpy(index), out=gathered)
        hidden = (to_device_beside(gathered, self.vlm.device) if on_gpu else gathered).view(*shape, -1)
        if missing:
            at = to_device_async(torch.tensor(missing), self.vlm.device)
            hidden[at] = self._run(prompts, [rows[r] for r in missing], batch.take(at))
        return hidden

    def keep(self, prompts: Iterable[Prompt], budget: int) -> None:
        """Run the prompts through the frozen layers and store the resulting states, images in the order given.

        An image and its wordings are left out if the total would exceed `budget` bytes of main memory. The images must
        have been encoded. Stores nothing if no layer is frozen.
        """
        if self.first == 0:
            return
        chosen, n_tokens = self._admit(prompts, budget // (self.vlm.d_model * self._states.itemsize))
        self._states = torch.empty(n_tokens, self.vlm.d_model, dtype=self._states.dtype)
        for places, (found,) in pipeline_to_host(self._run_all(chosen)):
            self._states.index_copy_(0, places, found)

    def _run_all(self, chosen: Sequence[Prompt]) -> Iterator[tuple[Tensor, tuple[Tensor]]]:
        """Yield, per batch, rows of the table, int64 [k], and their states [k, d_model] on the model's device."""
        tokens = min(KEPT_AT_ONCE, passing_tokens(*room(self.vlm)))
        for start in track(range(0, len(chosen), PROMPTS), "frozen layers", unit=PROMPTS):
            part = chosen[start : start + PROMPTS]
            for rows in batches(self.pack(part), tokens, self.vlm.device):
                batch = self.collate(rows).to(self.vlm.device)
                hidden = self._run(part, rows, batch).flatten(0, 1)
                positions, places = self._places(part, dict(enumerate(rows)), batch.input_ids.shape[1])
                places, once = np.unique(places, return_index=True)
                yield (
                    torch.from_numpy(places),
                    (hidden[to_device_async(torch.from_numpy(positions[once]), hidden.device)],),
                )

    def _admit(self, prompts: Iterable[Prompt], limit: int) -> tuple[list[Prompt], int]:
        """The prompts that fit into a table of `limit` rows, image by image, and the rows they take; fills `_kept`."""
        groups: dict[str, dict[Prompt, None]] = {}
        for prompt in prompts:
            groups.setdefault(prompt.image, {})[prompt] = None
        self._kept, used = {}, 0
        for group in groups.values():
            image_at: dict[tuple[int, ...], int] = {}
            kept, end = {}, used
            for prompt, tokens in zip(group, self.tokens_of(list(group)), strict=True):
                cut = len(tokens) - tokens[::-1].index(self.vlm.model.config.image_token_id)
                # Equal for all wordings, unless the question or a part of it precedes the image.
                before = tuple(tokens[:cut])
                if before not in image_at:
                    image_at[before] = end
                    end += cut
                kept[prompt] = StateRows(image_at[before], cut, end)
                end += len(tokens) - cut
            if end <= limit:
                self._kept |= kept
                used = end
        return list(self._kept), used

    def _places(
        self, prompts: Sequence[Prompt], rows: Mapping[int, Row], width: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The positions in the flattened batch, and the rows of the table, of every token of every prompt of some rows.

        `rows` maps the index of a row in the batch to the row; rows are `width` positions long. Tokens that several
        prompts share are listed once for each of them.
        """
        positions, places = [], []
        for r, row in rows.items():
            start = r * width
            prefix, end = len(row.prefix), start + len(row.prefix)
            for i, suffix in zip(row.prompts, row.suffixes, strict=True):
                kept = self._kept[prompts[i]]
                after = prefix + len(suffix) - kept.cut
                positions += [np.arange(start, start + prefix), np.arange(end, end + len(suffix))]
                places += [np.arange(kept.image, kept.image + kept.cut), np.arange(kept.text, kept.text + after)]
                end += len(suffix)
        return np.concatenate(positions), np.concatenate(places)

    @torch.no_grad()
    def _run(self, prompts: Sequence[Prompt], rows: Sequence[Row], batch: Batch) -> Tensor:
        """Run the embeddings and the frozen layers on a batch, without gradients: [B, S, d_model]."""
        model = self.vlm.model
        images = gather_async([self.vlm.image_tokens[prompts[row.prompts[0]].image] for row in rows], self.vlm.device)
        hidden = embed(model, batch, images)
        with sdpa_kernel(DECODE_KERNELS):
            return run_layers(model, hidden, batch_masks(model, batch), batch.position_ids, stop=self.first)


def lowest_trained(model: Any) -> int:
    """The lowest decoder layer with a trained parameter; the number of layers if there is none.

    Raises ValueError if a parameter below the layers is trained, because their input is computed without gradients.
    """
    text = model.model.language_model
    below = [model.model.vision_tower, model.model.multi_modal_projector, text.embed_tokens]
    if any(p.requires_grad for module in below for p in module.parameters()):
        raise ValueError("the vision tower, the projector and the embeddings cannot be trained")
    trained = (any(p.requires_grad for p in layer.parameters()) for layer in text.layers)
    return next((number for number, is_trained in enumerate(trained) if is_trained), len(text.layers))

"""Answer margins and residuals of many prompts: the forward engine that every other measurement uses.

Every image is encoded once, and the prompts about it are packed after their shared prefix (`interp.model.packing`).
Only the residuals and logits of final tokens are kept.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from interp.images.decode import NO_IMAGE
from interp.model.decoder import final_logits, run_below
from interp.model.image_tokens import encode_images
from interp.model.memory_model import passing_tokens
from interp.model.packing import Batch, Row, batches, collate, common_prefix, length_step, pack, side_by_side
from interp.model.prompts import answer_margin, prompt_tokens
from interp.model.room import least_size, room
from interp.model.vlm import Vlm
from interp.runtime.async_copies import gather_async, pipeline_to_host
from interp.runtime.calls_beside import CallsBeside
from interp.runtime.distributed import Team
from interp.runtime.errors import InputError
from interp.runtime.prefetch import map_ahead, map_beside
from interp.runtime.progress import track
from interp.runtime.shared_cores import map_sharing_cores


class Measurement(NamedTuple):
    """The model's response to each of n prompts."""

    margin: Tensor
    """Answer margin of each prompt: float32 [n] [logits], positive for yes."""
    top_token: Tensor
    """Most probable first answer token of each prompt: int64 [n]."""
    residuals: Tensor
    """resid_post at the final token: [n, number of requested layers, d_model], float32 unless stored otherwise."""

    def __repr__(self) -> str:
        return f"Measurement({len(self.margin)} prompts, residuals of {self.residuals.shape[1]} layers)"


def pack_prompts(vlm: Vlm, prompts: pd.DataFrame) -> list[Row]:
    """Pack the rows of a prompt table (`image`, `text`, `closed`) by image."""
    return pack(_tokenize(vlm, prompts), list(prompts["image"]), vlm.model.config.image_token_id)


def pack_beside_images(vlm: Vlm, prompts: pd.DataFrame, team: Team) -> list[Row]:
    """Pack prompts as `pack_prompts` does, on a GPU in a thread while their images are encoded.

    The image tokens come into `vlm.image_tokens`. Images are not encoded here if there are several processes, or if
    more would be kept than `vlm.max_images`. Raises InputError for an unreadable image.
    """
    images = sorted(set(prompts["image"]))
    at_once = len(vlm.image_tokens.keys() | set(images)) <= vlm.max_images
    if vlm.device.type != "cuda" or team.size > 1 or not at_once:
        return pack_prompts(vlm, prompts)
    with map_beside(partial(pack_prompts, vlm), [prompts], 1) as packed:
        encode_images(vlm, images)
        return next(packed)


def load_batches(
    vlm: Vlm, chunks: Iterable[list[Row]], prompts: pd.DataFrame, description: str
) -> Iterator[tuple[Batch, Tensor]]:
    """Every batch of packed rows of a prompt table with its image tokens, on the model's device, with a bar.

    `chunks` are the rows of each batch (`interp.model.packing.batches`). Images without tokens are encoded first, all
    at once or `vlm.max_images` at a time; the tokens of each such block are then dropped. Raises InputError for an
    unreadable image.
    """
    chunks = list(chunks)
    image_of = prompts["image"].to_numpy()
    prompts_of = [sum(len(row.prompts) for row in chunk) for chunk in chunks]
    unit = max(1, sum(prompts_of) // max(1, len(chunks)))
    pad_token = vlm.model.config.text_config.pad_token_id or 0

    def loaded(chunk: list[Row]) -> tuple[Batch, Tensor]:
        tokens = gather_async([vlm.image_tokens[image_of[row.prompts[0]]] for row in chunk], vlm.device)
        return collate(chunk, pad_token, length_step(vlm.device)).to(vlm.device), tokens

    # While a GPU computes one batch, a thread puts together the next.
    ahead = 1 if vlm.device.type == "cuda" else 0
    for block in _blocks(chunks, vlm.max_images):
        images = {image_of[row.prompts[0]] for chunk in block for row in chunk}
        new = [image for image in sorted(images) if image not in vlm.image_tokens]
        encode_images(vlm, new)
        yield from map_ahead(loaded, track(block, description, unit), 1, ahead)
        if len(vlm.image_tokens) > vlm.max_images:
            for image in new:
                del vlm.image_tokens[image]


def _blocks(chunks: list[list[Row]], images: int) -> Iterator[list[list[Row]]]:
    """Group chunks of rows into blocks of at most `images` rows, and at least one chunk; a row has one image."""
    block: list[list[Row]] = []
    for chunk in chunks:
        if block and sum(map(len, block)) + len(chunk) > images:
            yield block
            block = []
        block.append(chunk)
    if block:
        yield block


def _tokenize(vlm: Vlm, prompts: pd.DataFrame) -> list[list[int]]:
    """Token ids of every row of a prompt table; equal wordings are tokenized once."""
    keys = list(zip(prompts["text"], prompts["closed"], prompts["image"] != NO_IMAGE, strict=True))
    unique = list(dict.fromkeys(keys))
    texts, closed, with_image = ([key[i] for key in unique] for i in range(3))
    tokens = dict(zip(unique, prompt_tokens(vlm.processor, texts, closed, vlm.style, with_image), strict=True))
    return [tokens[key] for key in keys]


@torch.no_grad()
def measure(
    vlm: Vlm,
    prompts: pd.DataFrame,
    layers: Sequence[int] = (),
    batch_tokens: int | None = None,
    description: str = "prompts",
    into: Tensor | None = None,
) -> Measurement:
    """Answer margin, first answer token and final-token residuals of the rows of a prompt table.

        >>> measured = interp.measure(vlm, prompts.head(8), layers=[4, 5])
        >>> measured.margin.shape, measured.residuals.shape
        (torch.Size([8]), torch.Size([8, 2, 128]))

    The table has columns `image`, `text` and `closed`. Residuals of `layers` are returned, written to `into` [n,
    layers, d_model] if it is given. The processes of `vlm.team` divide the table, and each returns the whole. Batches
    hold `batch_tokens` positions, by default as many as there is memory for. `description` labels the progress bar.
    Raises InputError if a margin is not finite or an image is unreadable.
    """
    if batch_tokens is None:
        batch_tokens = least_size(vlm, vlm.team, passing_tokens)
    chunks = list(batches(pack_beside_images(vlm, prompts, vlm.team), batch_tokens, vlm.device))
    if vlm.team.size == 1:
        return _measure_batches(vlm, prompts, layers, chunks, batch_tokens, description, into)
    own = vlm.team.share(chunks)
    part = _measure_batches(vlm, prompts, layers, own, batch_tokens, description)
    return _merge(part, own, len(prompts), vlm.team, into)


def _measure_batches(
    vlm: Vlm,
    prompts: pd.DataFrame,
    layers: Sequence[int],
    chunks: Sequence[list[Row]],
    batch_tokens: int,
    description: str,
    into: Tensor | None = None,
) -> Measurement:
    """What `measure` returns, of the prompts in `chunks` alone, in table order."""
    asked = _prompts_in(chunks)
    n = len(asked)
    margin = torch.empty(n)
    top_token = torch.empty(n, dtype=torch.long)
    residuals = torch.empty(n, len(layers), vlm.d_model) if into is None else into
    launched = launch_batches(vlm, prompts, layers, chunks, batch_tokens, description, residuals.dtype)
    # The system takes long for memory that is written for the first time, and the GPU would wait for its next batch.
    with CallsBeside(1) as beside:
        for index, (its_margin, its_token, its_residuals) in pipeline_to_host(launched):
            place = torch.searchsorted(asked, torch.tensor(index))
            margin[place], top_token[place] = its_margin, its_token
            if layers:
                beside.add(partial(residuals.index_copy_, 0, place, its_residuals))
    check_finite(prompts, asked, margin)
    return Measurement(margin, top_token, residuals)


def _prompts_in(chunks: Sequence[list[Row]]) -> Tensor:
    """The prompts in some batches, in table order: int64 [n]."""
    return torch.tensor(sorted(prompt for chunk in chunks for row in chunk for prompt in row.prompts), dtype=torch.long)


@torch.no_grad()
def launch_batches(
    vlm: Vlm,
    prompts: pd.DataFrame,
    layers: Sequence[int],
    chunks: Iterable[list[Row]],
    batch_tokens: int,
    description: str,
    dtype: torch.dtype = torch.float32,
) -> Iterator[tuple[list[int], Measurement]]:
    """Yield the indices of each packed batch's prompts and their measurement, with residuals as `dtype`.

    The tensors are on the model's device, where a GPU may not have computed them yet. `chunks` are those of
    `load_batches`, the other parameters those of `measure`; margins are not checked.
    """

    def launch(loaded: tuple[Batch, Tensor]) -> tuple[list[int], Measurement]:
        batch, images = loaded
        capture = Capture(vlm, batch, batch.final, layers)
        logits = final_logits(vlm.model, batch, images, capture)
        found = capture.stacked(layers) if layers else logits[:, :0, None]
        return batch.prompts, Measurement(answer_margin(logits, vlm.answers), logits.argmax(-1), found.to(dtype))

    threads = side_by_side(batch_tokens, vlm.device)
    yield from map_sharing_cores(launch, load_batches(vlm, chunks, prompts, description), threads)


def check_finite(prompts: pd.DataFrame, asked: Tensor, margin: Tensor) -> None:
    """Raise InputError if one of the margins [n] of the prompts `asked`, int64 [n] into the table, is not finite."""
    bad = asked[~torch.isfinite(margin)].tolist()
    if bad:
        raise InputError(
            f"The margins of {len(bad)} of {len(asked)} prompts are not finite, the first "
            f"{_locate_prompt(prompts, bad[0])}. Try --dtype float32, or check the model's weights."
        )


def _locate_prompt(prompts: pd.DataFrame, row: int) -> str:
    """Describe the place of a prompt by numbers alone, which count from 1."""
    if not {"question", "variant"} <= set(prompts):
        return f"prompt {row + 1}"
    question, variant = (int(prompts[name].iloc[row]) for name in ("question", "variant"))
    return f"wording {variant + 1} of question {question + 1} of those asked, in file order"


def _merge(part: Measurement, chunks: Sequence[list[Row]], n: int, team: Team, into: Tensor | None) -> Measurement:
    """Merge what each process measured on its batches of the n prompts; residuals are written to `into` if given."""
    place = _prompts_in(chunks)
    found = []
    for own in part:
        spread = own.new_zeros(n, *own.shape[1:])
        spread[place] = own
        found.append(team.all_reduce_sum(spread))
    whole = Measurement(*found)
    return whole if into is None else whole._replace(residuals=into.copy_(whole.residuals))


@torch.no_grad()
def text_residuals(
    vlm: Vlm, prompts: pd.DataFrame, layers: Sequence[int], batch_tokens: int | None = None
) -> tuple[Tensor, Tensor]:
    """Residuals at the text tokens of a prompt table, including the template's tokens after the question.

    The table has columns `image`, `text` and `closed`. Returns the residuals as float32 [tokens, layers, d_model] in
    main memory, and the table row of each, int64 [tokens]. The prefix that all prompts share is left out: it is the
    same in each, and the residual of <bos> is so large that it would dominate every sum. Batches hold `batch_tokens`
    positions, by default as many as there is memory for.
    """
    if batch_tokens is None:
        batch_tokens = passing_tokens(*room(vlm), captured=len(layers))
    tokens = _tokenize(vlm, prompts)
    rows = pack(tokens, range(len(prompts)), vlm.model.config.image_token_id)
    start = common_prefix(tokens)
    residuals, owners = [torch.empty(0, len(layers), vlm.d_model)], [torch.empty(0, dtype=torch.long)]
    for batch, images in load_batches(vlm, batches(rows, batch_tokens, vlm.device), prompts, "residuals"):
        places = text_places(vlm, batch, start)
        capture = Capture(vlm, batch, places, layers)
        run_below(vlm.model, batch, images, max(layers, default=-1) + 1, after=capture)
        # Put together in main memory: the residuals of all layers may be larger than anything else on the device.
        residuals.append(torch.stack([capture.found[layer].cpu() for layer in layers], dim=1).float())
        owners.append(torch.tensor(batch.prompts)[places[:, 0].cpu()])
    return torch.cat(residuals), torch.cat(owners)


def text_places(vlm: Vlm, batch: Batch, start: int) -> Tensor:
    """Rows and columns of a batch's text tokens from position `start` of their prompt on: int64 [n, 2]."""
    image = batch.input_ids == vlm.model.config.image_token_id
    return ((batch.segment >= 0) & ~image & (batch.position_ids >= start)).nonzero()


class Capture:
    """Called after every layer of a running batch, applies `vlm.output_hooks` and captures residuals after them."""

    def __init__(self, vlm: Vlm, batch: Batch, places: Tensor, layers: Sequence[int] = ()) -> None:
        """Capture the residuals of `layers` at `places` int64 [n, 2], rows and columns of the batch."""
        self._hooks, self._batch = vlm.output_hooks, batch
        self._places, self._layers = places.unbind(1), set(layers)
        self.found: dict[int, Tensor] = {}
        """Layer -> its captured residuals [n, d_model]."""

    def __call__(self, layer: int, output: Tensor) -> Tensor:
        """The output [B, S, d_model] of a layer that the next one is to use."""
        row, column = self._places
        # The layer may be on another device than the batch, which is with the first layer.
        there, home = output.device, row.device
        if layer in self._hooks:
            output = self._hooks[layer](output.to(home), self._batch).to(there)
        if layer in self._layers:
            self.found[layer] = output[row.to(there), column.to(there)].to(home)
        return output

    def stacked(self, layers: Sequence[int]) -> Tensor:
        """The captured residuals of `layers`: [n, layers, d_model]."""
        return torch.stack([self.found[layer] for layer in layers], dim=1)

"""Packed sequences with a shared prefix: prompts that begin alike are computed in one row.

Paraphrases share their image and every token before the first that differs, so this prefix is computed once. The
suffixes of all prompts follow it in the same sequence. The attention mask separates them, and position ids restart
after the prefix, so that the results are those of the prompts run one by one (tested against the plain model).
"""

from collections.abc import Hashable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from interp.runtime.async_copies import to_device_async

CPU_POSITIONS = 2048
"""Most positions that a CPU runs at once; with more, the activations of a layer leave the caches of the cores."""

SIDE_BY_SIDE = 4
"""Most batches that a CPU runs side by side: Python, a tenth of a small batch's time, runs in one thread at a time."""

GPU_STEP = 32
"""Lengths of rows on a GPU are multiples of this. cuDNN's attention makes a plan for every new shape, in some 70 ms."""
GROWTH = 1024
"""Tokens by which a batch on a GPU grows (`column_step`), about a third of a millisecond of a layer of MedGemma-4B."""


class Row(NamedTuple):
    """Prompts that share one image and one prefix, packed into one sequence."""

    prompts: list[int]
    """Indices of the prompts in the caller's list."""
    prefix: list[int]
    """Token ids with which all prompts of the row begin."""
    suffixes: list[list[int]]
    """Token ids of each prompt after the prefix, at least one per prompt."""

    @property
    def length(self) -> int:
        """Length of the row [tokens]."""
        return len(self.prefix) + sum(map(len, self.suffixes))

    @property
    def apart(self) -> int:
        """Length of its prompts with a row for each [tokens]."""
        return self.length + len(self.prefix) * (len(self.prompts) - 1)


class Batch(NamedTuple):
    """B rows padded to a common length S, with n prompts in all."""

    input_ids: Tensor
    """Token ids: int64 [B, S]."""
    position_ids: Tensor
    """Position of each token in its own prompt: int64 [B, S]."""
    segment: Tensor
    """Segment of each token: int64 [B, S], 0 in the prefix, k in the suffix of the row's k-th prompt, -1 in padding."""
    final: Tensor
    """Row and column of every prompt's final token: int64 [n, 2]."""
    prompts: list[int]
    """Indices of the n prompts in the caller's list, aligned with `final`."""
    most: int
    """Most prompts of a row."""

    def __repr__(self) -> str:
        return f"Batch({len(self.input_ids)} rows of {self.input_ids.shape[1]} tokens, {len(self.prompts)} prompts)"

    def to(self, device: torch.device | str) -> "Batch":
        """The batch on another device, copied there by `interp.runtime.async_copies.to_device_async`."""
        names = ("input_ids", "position_ids", "segment", "final")
        moved: dict[str, Any] = {name: to_device_async(getattr(self, name), torch.device(device)) for name in names}
        return self._replace(**moved)

    def take(self, rows: Tensor) -> "Batch":
        """The batch with only the rows int64 [b]; `final` and `prompts` keep their values."""
        names = ("input_ids", "position_ids", "segment")
        return self._replace(**{name: getattr(self, name)[rows] for name in names})


def pack(
    tokens: Sequence[list[int]], groups: Sequence[Hashable], image_token: int, max_tokens: int | None = None
) -> list[Row]:
    """Pack the prompts of each group (those of one image) after their common prefix.

    A row holds at most about `max_tokens` tokens, by default four times the prefix and at least 512: attention costs
    the square of a row's length, and each further row costs the prefix once more. If the image is not wholly inside the
    common prefix, every prompt of the group gets its own row.
    """
    members: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    rows = []
    for indices in members.values():
        cut = common_prefix([tokens[i] for i in indices])
        if any(image_token in tokens[i][cut:] for i in indices):
            rows += [Row([i], [], [tokens[i]]) for i in indices]
            continue
        row = Row([], tokens[indices[0]][:cut], [])
        limit = max(512, 4 * cut) if max_tokens is None else max_tokens
        for i in indices:
            suffix = tokens[i][cut:]
            if row.prompts and row.length + len(suffix) > limit:
                rows.append(row)
                row = Row([], row.prefix, [])
            row.prompts.append(i)
            row.suffixes.append(suffix)
        rows.append(row)
    return rows


def common_prefix(tokens: list[list[int]]) -> int:
    """Number of leading tokens that all prompts share, excluding the final token of each; 0 without prompts."""
    if not tokens:
        return 0
    # The prefix shared by the first and last list in lexical order is shared by all lists between them.
    first, last = min(tokens), max(tokens)
    limit = min(map(len, tokens)) - 1
    return next((place for place in range(limit) if first[place] != last[place]), limit)


def at_once(positions: int, device: torch.device) -> int:
    """How many of the allowed `positions` to run at once on a device: on a CPU at most CPU_POSITIONS."""
    return min(positions, CPU_POSITIONS) if device.type == "cpu" else positions


def side_by_side(positions: int, device: torch.device) -> int:
    """How many batches may run at once on a device: on a CPU as many of `at_once` as the allowed `positions` hold."""
    return max(1, min(SIDE_BY_SIDE, positions // CPU_POSITIONS)) if device.type == "cpu" else 1


def length_step(device: torch.device) -> int:
    """Of what the lengths of padded rows are multiples on a device."""
    return GPU_STEP if device.type == "cuda" else 1


def column_step(rows: int, device: torch.device) -> int:
    """By how many columns a batch of so many rows, to which edited tokens are added layer by layer, grows at a time.

    On a GPU, matrix products choose and load a kernel for every new number of tokens.
    """
    return max(1, GROWTH // rows) if device.type == "cuda" else 1


def batches(
    rows: Sequence[Row], batch_tokens: int, device: torch.device | None, apart: bool = False
) -> Iterator[list[Row]]:
    """Group rows of similar length, so that a padded batch has at most `batch_tokens` positions.

    On a CPU it has fewer (`at_once`), unless no `device` is given. With `apart` it has no more either when each of its
    prompts gets a row of its own, and on a CPU, where a few such batches run side by side, all have about as many. A
    batch holds at least one row.
    """
    step = 1
    if device is not None:
        batch_tokens, step = at_once(batch_tokens, device), length_step(device)
        if apart and device.type == "cpu" and rows:
            sizes = [row.apart for row in rows]
            count = -(-sum(sizes) // batch_tokens)
            # With the largest row added, no rest is left.
            batch_tokens = min(batch_tokens, sum(sizes) // count + max(sizes))
    batch: list[Row] = []
    alone = 0
    for row in sorted(rows, key=lambda r: r.length, reverse=True):
        own = row.apart if apart else 0
        if batch and max((len(batch) + 1) * padded(batch[0].length, step), alone + own) > batch_tokens:
            yield batch
            batch, alone = [], 0
        batch.append(row)
        alone += own
    if batch:
        yield batch


def padded(length: int, step: int) -> int:
    """The least multiple of `step` that is not below `length`."""
    return -(-length // step) * step


def collate(rows: Sequence[Row], pad_token: int, multiple: int = 1) -> Batch:
    """Pad rows to a common length, a multiple of `multiple`, and record where every prompt ends."""
    # numpy, because creating a tensor for every prompt would take longer than running the model.
    shape = (len(rows), padded(max(row.length for row in rows), multiple))
    input_ids = np.full(shape, pad_token, dtype=np.int64)
    position_ids = np.zeros(shape, dtype=np.int64)
    segment = np.full(shape, -1, dtype=np.int64)
    final, prompts = [], []
    for r, row in enumerate(rows):
        start, length = len(row.prefix), row.length
        sizes = [len(suffix) for suffix in row.suffixes]
        ends = start + np.cumsum(sizes)
        input_ids[r, :length] = [*row.prefix, *chain.from_iterable(row.suffixes)]
        segment[r, :length] = np.repeat(np.arange(1 + len(sizes)), [start, *sizes])
        # The positions of every suffix continue those of the prefix.
        position_ids[r, :length] = np.arange(length) - np.repeat([0, *(ends - sizes - start)], [start, *sizes])
        final += [(r, end - 1) for end in ends]
        prompts += row.prompts
    ids, positions, segments = (torch.from_numpy(a) for a in (input_ids, position_ids, segment))
    most = max(len(row.prompts) for row in rows)
    return Batch(ids, positions, segments, torch.tensor(np.array(final, np.int64)), prompts, most)


def attention_masks(batch: Batch, image_token: int, sliding_window: int | None) -> dict[str, Tensor]:
    """Boolean attention masks [B, 1, S, S] (True = may attend) for Gemma 3's two kinds of layers.

    A token attends to the prefix and to its own prompt up to itself, and image tokens attend to each other in both
    directions. In local layers only the last `sliding_window` positions are visible. Padding attends to itself alone,
    which keeps the softmax finite.
    """
    segment, position = batch.segment, batch.position_ids
    image = batch.input_ids == image_token
    seen = (segment[:, None, :] == 0) | (segment[:, None, :] == segment[:, :, None])
    seen &= (segment >= 0)[:, None, :]
    itself = torch.eye(segment.shape[1], dtype=torch.bool, device=segment.device)[None]
    reach = in_reach(position[:, :, None], position[:, None], sliding_window, image[:, :, None] & image[:, None])
    return {kind: ((seen & reached) | itself)[:, None] for kind, reached in reach.items()}


def in_reach(
    position: Tensor, key_position: Tensor, sliding_window: int | None, images: Tensor | None = None
) -> dict[str, Tensor]:
    """Whether tokens reach keys of their own prompt in Gemma 3's two kinds of layers, by their positions.

    `images` says where both are image tokens, by default nowhere. The tensors are broadcast against each other.
    """
    full = key_position <= position
    if images is not None:
        full = full | images
    local = full if sliding_window is None else full & (key_position > position - sliding_window)
    return {"full_attention": full, "sliding_attention": local}


def final_columns(batch: Batch) -> Tensor:
    """The column of the final token of every row's k-th prompt: int64 [B, `most`], 0 if there is none."""
    row, column = batch.final.unbind(1)
    found = column.new_zeros(len(batch.input_ids), batch.most)
    found[row, batch.segment[row, column] - 1] = column
    return found


def column_masks(batch: Batch, columns: Tensor, sliding_window: int | None) -> dict[str, Tensor]:
    """The rows of `attention_masks` of the text tokens in `columns` int64 [B, F]: boolean [B, 1, F, S]."""
    segment, position = batch.segment[:, None], batch.position_ids[:, None]
    own, place = (of_all.gather(1, columns)[..., None] for of_all in (batch.segment, batch.position_ids))
    seen = (segment == 0) | (segment == own)
    return {kind: (seen & reached)[:, None] for kind, reached in in_reach(place, position, sliding_window).items()}

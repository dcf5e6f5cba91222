"""Packing: prompts that begin alike are laid behind one shared prefix, in one sequence, without seeing each other.

Paraphrases share their image and everything before their first differing token, so that part is computed once.
A mask keeps the prompts of a row apart and position ids restart behind the prefix; the numbers are those of the
prompts run one by one (tested against the plain model).
"""

from collections.abc import Hashable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from interp.runtime.async_copies import to_device_async


class Row(NamedTuple):
    """Prompts that share one image and one prefix."""

    prompts: list[int]
    """Positions of the prompts in the caller's order."""
    prefix: list[int]
    """Token ids that all prompts begin with."""
    suffixes: list[list[int]]
    """Token ids of each prompt behind the prefix, at least one."""

    @property
    def length(self) -> int:
        """Positions that the row takes [tokens]."""
        return len(self.prefix) + sum(map(len, self.suffixes))


class Batch(NamedTuple):
    """Rows padded to one length S; B rows, n prompts in all."""

    input_ids: Tensor
    """int64 [B, S]."""
    position_ids: Tensor
    """int64 [B, S]: place of the token in its own prompt."""
    segment: Tensor
    """int64 [B, S]: 0 in the prefix, k in the row's k-th prompt, -1 in padding."""
    final: Tensor
    """int64 [n, 2]: row and column of every prompt's final token."""
    prompts: list[int]
    """[n] positions of the prompts in the caller's order, aligned with `final`."""

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device, sent there as `interp.runtime.async_copies.to_device_async` does."""
        names = ("input_ids", "position_ids", "segment", "final")
        moved: dict[str, Any] = {name: to_device_async(getattr(self, name), torch.device(device)) for name in names}
        return self._replace(**moved)

    def take(self, rows: Tensor) -> "Batch":
        """The rows int64 [b] of the batch; where prompts end is left as it is."""
        names = ("input_ids", "position_ids", "segment")
        return self._replace(**{name: getattr(self, name)[rows] for name in names})


def pack(
    tokens: Sequence[list[int]], groups: Sequence[Hashable], image_token: int, max_tokens: int | None = None
) -> list[Row]:
    """Lay prompts of one group (same image) behind their common prefix; a row takes at most about `max_tokens`.

    By default that is four prefixes, or 512 where they are shorter: attention pays for the square of a row, a new row
    for one more prefix.
    A prompt whose image does not lie whole inside the common prefix gets a row of its own.
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
    """Number of leading tokens shared by all, leaving every prompt at least its final token."""
    # What the least and the greatest in lexical order begin with, all between them do.
    first, last = min(tokens), max(tokens)
    limit = min(map(len, tokens)) - 1
    return next((place for place in range(limit) if first[place] != last[place]), limit)


def batches(rows: Sequence[Row], batch_tokens: int) -> Iterator[list[Row]]:
    """Rows of like length together, so that a padded batch holds at most `batch_tokens` positions."""
    batch: list[Row] = []
    for row in sorted(rows, key=lambda r: r.length, reverse=True):
        if batch and (len(batch) + 1) * batch[0].length > batch_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def collate(rows: Sequence[Row], pad_token: int, multiple: int = 1) -> Batch:
    """Pad rows to one length, a multiple of `multiple`, and record where every prompt ends."""
    # In numpy: a tensor for every prompt would take longer than the model does.
    shape = (len(rows), -(-max(row.length for row in rows) // multiple) * multiple)
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
        # Every suffix starts anew behind the prefix.
        position_ids[r, :length] = np.arange(length) - np.repeat([0, *(ends - sizes - start)], [start, *sizes])
        final += [(r, end - 1) for end in ends]
        prompts += row.prompts
    ids, positions, segments = (torch.from_numpy(a) for a in (input_ids, position_ids, segment))
    return Batch(ids, positions, segments, torch.tensor(np.array(final, np.int64)), prompts)


def attention_masks(batch: Batch, image_token: int, sliding_window: int | None) -> dict[str, Tensor]:
    """Boolean masks [B, 1, S, S] (True = may attend) for Gemma 3's two kinds of layers.

    A token sees the prefix and its own prompt, up to itself; image tokens see each other in both directions; local
    layers also only the last `sliding_window` positions. Padding sees itself alone, which keeps softmax finite.
    """
    segment, position = batch.segment, batch.position_ids
    image = batch.input_ids == image_token
    seen = (segment[:, None, :] == 0) | (segment[:, None, :] == segment[:, :, None])
    past = position[:, None, :] <= position[:, :, None]
    full = seen & (segment >= 0)[:, None, :] & (past | (image[:, None, :] & image[:, :, None]))
    local = full if sliding_window is None else full & (position[:, None, :] > position[:, :, None] - sliding_window)
    itself = torch.eye(segment.shape[1], dtype=torch.bool, device=segment.device)[None]
    return {"full_attention": (full | itself)[:, None], "sliding_attention": (local | itself)[:, None]}

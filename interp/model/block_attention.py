"""Attention of packed rows on a CPU: every token over its own prompt and the prefix, without a mask of the whole row.

With a mask, a token's query meets the keys of its whole row, of which it may see a fifth. Here the prefixes and the
suffixes of a batch become blocks, each with its own keys and those before them. What belongs to a block follows from
the batch alone, and serves all layers.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp.model.packing import Batch, in_reach

SCORES = 2**17
"""Most scores of a part, so that they stay in a core's cache."""

Integers = NDArray[np.int64]


class Part(NamedTuple):
    """m blocks of T queries and K keys. A block with fewer has its last ones repeated."""

    queries: Tensor
    """Rows of the queries, laid out as [B * S * heads, d_head]: int64 [m * heads * T]."""
    keys: Tensor
    """Rows of the keys and values, laid out as [B * S * key heads, d_head]: int64 [m * key heads * K]."""
    bias: Tensor
    """What is added to scores: 0 where a query may see a key, else minus infinity; float32 [m, 1, T, K]."""


class Blocks(NamedTuple):
    """The attention of a packed batch in one kind of layer, in place of a mask."""

    parts: list[Part]
    """Parts that together have every token as a query."""
    outputs: Tensor
    """Row of every token and head in the joined outputs of the parts: int64 [B * S * heads]; 0 for padding."""


def attention_blocks(
    batch: Batch, image_token: int, sliding_window: int | None, heads: int, key_heads: int
) -> dict[str, Blocks]:
    """The blocks for Gemma 3's two kinds of layers. A token sees what `interp.model.packing.attention_masks` says."""
    position, image = batch.position_ids.flatten(), (batch.input_ids == image_token).flatten()
    outputs = torch.zeros(len(position), heads, dtype=torch.long)
    parts: dict[str, list[Part]] = {}
    joined = 0
    for own, keys, there in _parts(batch, heads):
        m, t = own.shape
        q, k = own[:, :, None], keys[:, None]
        for kind, reached in in_reach(position[q], position[k], sliding_window, image[q] & image[k]).items():
            bias = torch.where(reached & there[:, None], 0.0, -torch.inf)[:, None]
            parts.setdefault(kind, []).append(Part(_by_head(own, heads), _by_head(keys, key_heads), bias))
        made = torch.arange(joined, joined + m * heads * t).view(m, heads, t)
        outputs[own.flatten()] = made.transpose(1, 2).flatten(0, 1)
        joined += m * heads * t
    return {kind: Blocks(of_kind, outputs.flatten()) for kind, of_kind in parts.items()}


def attend_blocks(query: Tensor, key: Tensor, value: Tensor, blocks: Blocks, scale: float) -> Tensor:
    """Outputs [B, S, heads, d_head] of `query` [B, heads, S, d_head]; `key` and `value` have [B, key heads, S, d_head].

    Scores are multiplied by `scale`. The outputs of padding have no meaning.
    """
    size, groups = query.shape[-1], key.shape[1]
    queries, keys, values = (x.transpose(1, 2).reshape(-1, size) for x in (query, key, value))
    found = []
    for part in blocks.parts:
        # Heads that share keys become rows of one product.
        asked = queries.index_select(0, part.queries).mul_(scale).view(len(part.bias) * groups, -1, size)
        seen, read = (x.index_select(0, part.keys).view(len(asked), -1, size) for x in (keys, values))
        scores = torch.bmm(asked, seen.transpose(1, 2))
        by_head = scores.view(len(part.bias), -1, *part.bias.shape[2:])
        weights = by_head.add_(part.bias).softmax(-1).view(scores.shape)
        found.append(torch.bmm(weights, read).view(-1, size))
    return torch.cat(found).index_select(0, blocks.outputs).view(query.transpose(1, 2).shape)


def _parts(batch: Batch, heads: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The tokens of each part's blocks, int64 [m, T], their keys, int64 [m, K], and which keys are no repetition.

    Tokens are numbered by row and column, from 0 to B * S - 1. A key comes before the queries' own ones if it is in the
    prefix of their row.
    """
    start, length, first, past = _stretches(batch)
    for group in (np.flatnonzero(past > 0), np.flatnonzero(past == 0)):
        left = group[np.argsort(-length[group], kind="stable")]
        while len(left):
            t, before = int(length[left[0]]), int(past[left].max())
            chosen = left[: max(1, SCORES // (heads * t * (t + before)))]
            left = left[len(chosen) :]
            own, own_there = _columns(start[chosen], length[chosen], t)
            prefix, prefix_there = _columns(first[chosen], past[chosen], before)
            keys, there = np.concatenate([prefix, own], 1), np.concatenate([prefix_there, own_there], 1)
            yield torch.from_numpy(own), torch.from_numpy(keys), torch.from_numpy(there)


def _stretches(batch: Batch) -> tuple[Integers, Integers, Integers, Integers]:
    """The prefixes and suffixes of a batch: first token and length of each, then those of the prefix before it."""
    rows, columns = batch.segment.shape
    segment = batch.segment.numpy().ravel()
    row = np.repeat(np.arange(rows), columns)
    # Segments are at least -1, so that each segment of each row has a number of its own.
    start = np.flatnonzero(np.diff(row * (columns + 2) + segment, prepend=-2))
    length = np.diff(start, append=len(segment))
    kind, row = segment[start], row[start]
    prefix = np.zeros(rows, np.int64)
    prefix[row[kind == 0]] = length[kind == 0]
    kept = kind >= 0
    past = np.where(kind > 0, prefix[row], 0)
    return start[kept], length[kept], row[kept] * columns, past[kept]


def _columns(start: Integers, length: Integers, width: int) -> tuple[Integers, NDArray[np.bool_]]:
    """The `length` [m] tokens from `start` [m] on, the last repeated up to `width`; and which are no repetition."""
    column = np.arange(width)
    return start[:, None] + np.minimum(column, length[:, None] - 1), column < length[:, None]


def _by_head(tokens: Tensor, heads: int) -> Tensor:
    """The rows of tokens [m, T] in a tensor [tokens * heads, d_head], by block, head and token: [m * heads * T]."""
    return (tokens[:, None] * heads + torch.arange(heads)[:, None]).flatten()

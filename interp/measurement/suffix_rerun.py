"""Causal sweeps that rerun only the final token, from the edited layer on, against the KV cache of its prompt.

Attention is causal, so an edit of the final token's residual changes nothing at earlier positions. Each prompt
therefore runs once, and its keys, its values and its final token's residual after every layer are cached. An edit then
costs one position in each layer above the edited one. The edits of all prompts and layers run together: those after
layer L join the batch once the earlier ones have passed layer L.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple, Protocol

import pandas as pd
import torch
from torch import Tensor

from interp.measurement.margins import Capture, load_batches, pack_beside_images
from interp.model.decoder import (
    additive,
    decode_kernels,
    final_margins,
    run_below,
    run_last_layer,
    run_layers,
)
from interp.model.edited_attention import ALIGNED, WithOwn
from interp.model.memory_model import GRADIENT_SHARE, Format, rerun_bytes, rerun_tokens
from interp.model.packing import Batch, Row, at_once, batches, column_step, in_reach, padded, side_by_side
from interp.model.room import least_size
from interp.model.vlm import Vlm
from interp.runtime.async_copies import gather_async, pipeline_to_host
from interp.runtime.distributed import ALONE, Team
from interp.runtime.progress import track
from interp.runtime.shared_cores import map_sharing_cores
from interp.storage.checkpoint import NO_CHECKPOINT, Checkpoint


class CachedBatch(NamedTuple):
    """What rerunning the final tokens of n prompts needs. Each prompt has a row, its tokens in their own order."""

    prompts: list[int]
    """Indices of the n prompts in the caller's list."""
    token: Tensor
    """Id of each final token: int64 [n]."""
    position: Tensor
    """Its position, the number of tokens before it: int64 [n]."""
    keys: list[Tensor]
    """Keys of the tokens before it in every layer, S columns: [n, heads, S, head_dim] each."""
    values: list[Tensor]
    """Their values: [n, heads, S, head_dim] each."""
    final: Tensor
    """resid_post at the final token after every layer: [n, number of layers, d_model], in the model's dtype."""

    @property
    def bytes(self) -> int:
        """Memory of the tensors [bytes]."""
        return sum(t.numel() * t.element_size() for t in (*self.keys, *self.values, self.final))


class EditGroup(NamedTuple):
    """What a sweep computes at once."""

    cached: CachedBatch
    """n prompts."""
    prompts: Tensor
    """Their indices in the caller's list: int64 [n, 1]."""
    edits: Tensor
    """Indices of the k edits, in the order of their layers: int64 [k]."""


class Edits(Protocol):
    """Edits [n, k, d_model] that are made when they are needed, because all of them would take too much memory."""

    @property
    def shape(self) -> torch.Size:
        """n, k and d_model."""

    def of(self, rows: Tensor, edits: Tensor, device: torch.device) -> Tensor:
        """The edits int64 [k'] of the prompts int64 [m], on a device: float32 [m, k', d_model]."""

    def tensors(self) -> dict[str, Tensor]:
        """What they follow from, by name."""


class SuffixRerun:
    """Prompts whose final tokens can be edited after any layer, in as many sweeps as wanted.

    `prompts` is a table as for `interp.measurement.margins.measure`. Batches hold `batch_tokens` positions, by default
    as many as leave half of the free memory (`interp.model.memory_model.rerun_tokens`). Cached batches of up to
    `max_bytes` stay on the device from one sweep to the next; the others are computed again in each sweep. The
    `output_hooks` of `vlm` must not change after the first sweep. The processes of `team` divide the batches, and every
    sweep returns the whole result to all of them. A sweep whose result is in `checkpoint` is not computed again.
    """

    def __init__(
        self,
        vlm: Vlm,
        prompts: pd.DataFrame,
        max_bytes: int = 0,
        batch_tokens: int | None = None,
        team: Team = ALONE,
        checkpoint: Checkpoint = NO_CHECKPOINT,
    ) -> None:
        self.vlm, self.prompts = vlm, prompts
        self.team, self.checkpoint = team, checkpoint
        self.batch_tokens = least_size(vlm, team, rerun_tokens) if batch_tokens is None else batch_tokens
        self._free = max_bytes
        self._cached: list[CachedBatch] = []
        self._chunks: list[list[Row]] | None = None

    def margins(self, layers: Sequence[int], delta: Tensor | Edits, description: str = "patches") -> Tensor:
        """Answer margins of every prompt under k edits, one at a time: float32 [n, k] [logits].

        `delta` float32 [n, k, d_model] is added to the final token's residual; edit k follows layer `layers`[k].
        """

        def launch(group: EditGroup) -> tuple[tuple[Tensor, Tensor], list[Tensor]]:
            cached, index, part = group
            edits = edits_of(delta, index[:, 0], part, self.vlm.device)
            return (index, part), [rerun_suffix(self.vlm, cached, [layers[k] for k in part], edits)]

        def sweep() -> Tensor:
            found = torch.zeros(delta.shape[:2])
            groups = self._edit_groups(layers, self.batch_tokens, description)
            threads = side_by_side(self.batch_tokens, self.vlm.device)
            with torch.no_grad():
                for place, (margins,) in pipeline_to_host(map_sharing_cores(launch, groups, threads)):
                    found[place] = margins
            return found

        return self._once("margins", layers, delta, delta.shape[:2], sweep)

    def gradients(
        self, layers: Sequence[int], delta: Tensor | Edits, description: str = "gradients", steps: int = 1
    ) -> Tensor:
        """Gradients of these margins with respect to each edited residual: float32 [n, k, d_model], as `delta`.

        With `steps` above 1, of each `steps` consecutive edits, which follow one layer, the mean: [n, k / steps,
        d_model].
        """
        n, k, d_model = delta.shape
        shape, tokens = torch.Size([n, k // steps, d_model]), self.batch_tokens // GRADIENT_SHARE

        def launch(group: EditGroup) -> tuple[tuple[Tensor, Tensor], list[Tensor]]:
            cached, index, part = group
            edits = edits_of(delta, index[:, 0], part, self.vlm.device).requires_grad_()
            with torch.enable_grad():
                margins = rerun_suffix(self.vlm, cached, [layers[k] for k in part], edits)
                (gradient,) = torch.autograd.grad(margins.sum(), edits)
            run = min(steps, len(part))
            return (index, part[::run] // steps), [gradient.unflatten(1, (-1, run)).sum(2) / steps]

        def sweep() -> Tensor:
            found = torch.zeros(shape)
            groups = self._edit_groups(layers, tokens, description, steps)
            threads = side_by_side(tokens, self.vlm.device)
            for (index, part), (gradient,) in pipeline_to_host(map_sharing_cores(launch, groups, threads)):
                # To add by `found[index, part] += gradient` takes eight times as long.
                found.flatten(0, 1).index_add_(0, (index * shape[1] + part).flatten(), gradient.flatten(0, 1))
            return found

        return self._once("gradients" if steps == 1 else f"gradients-of-{steps}", layers, delta, shape, sweep)

    def _once(
        self, kind: str, layers: Sequence[int], delta: Tensor | Edits, shape: torch.Size, sweep: Callable[[], Tensor]
    ) -> Tensor:
        """The result of a sweep, of the given shape, summed over the processes or read from the checkpoint."""
        if not self.checkpoint:
            return self.team.all_reduce_sum(sweep())
        inputs = {"prompts": torch.tensor(self.prompts.index.to_numpy(copy=True)), "layers": torch.tensor(layers)}
        inputs |= {"delta": delta} if isinstance(delta, Tensor) else delta.tensors()
        saved = self.checkpoint.read_stage(kind, inputs) if self.team.rank == 0 else None
        if self.team.gather_values(saved is not None)[0]:
            return self.team.all_reduce_sum(saved["found"] if saved else torch.zeros(shape))
        found = self.team.all_reduce_sum(sweep())
        if self.team.rank == 0:
            self.checkpoint.write_stage(kind, inputs, {"found": found})
        return found

    def _edit_groups(self, layers: Sequence[int], tokens: int, description: str, steps: int = 1) -> Iterator[EditGroup]:
        """Every batch with every group of edits: whole runs of `steps` consecutive edits, or an equal part of one.

        Nothing without edits.
        """
        if len(layers) == 0:
            return
        order = torch.tensor(layers, dtype=torch.long).argsort(stable=True)
        for cached in self._batches(description):
            most = max(1, at_once(tokens, self.vlm.device) // len(cached.prompts))
            size = most // steps * steps or next(part for part in range(most, 0, -1) if steps % part == 0)
            for part in order.split(size):
                yield EditGroup(cached, torch.tensor(cached.prompts)[:, None], part)

    def _batches(self, description: str) -> Iterator[CachedBatch]:
        """Every batch with its cache, computed again unless it stayed on the device."""
        yield from track(self._cached, description)
        if self._chunks is None:
            rows = pack_beside_images(self.vlm, self.prompts, self.team)
            self._chunks = self.team.share(list(batches(rows, self.batch_tokens, self.vlm.device, apart=True)))
        staying: list[CachedBatch] = []
        loaded = load_batches(self.vlm, self._chunks, self.prompts, description)
        threads = side_by_side(self.batch_tokens, self.vlm.device)
        for cached in map_sharing_cores(lambda given: _cache_batch(self.vlm, *given), loaded, threads):
            if cached.bytes <= self._free:
                self._free -= cached.bytes
                staying.append(cached)
            yield cached
        prompts = {prompt for cached in staying for prompt in cached.prompts}
        self._cached += staying
        self._chunks = [chunk for chunk in self._chunks if chunk[0].prompts[0] not in prompts]


def edits_of(delta: Tensor | Edits, rows: Tensor, edits: Tensor, device: torch.device) -> Tensor:
    """The edits int64 [k'] of the prompts int64 [m], on a device: float32 [m, k', d_model]."""
    if not isinstance(delta, Tensor):
        return delta.of(rows, edits, device)
    in_a_row = len(edits) > 0 and torch.equal(edits, edits[0] + torch.arange(len(edits)))
    chosen = slice(int(edits[0]), int(edits[-1]) + 1) if in_a_row else edits
    # Another dtype is widened on the device, after a shorter copy.
    return gather_async([delta[row : row + 1, chosen] for row in rows.tolist()], device).float()


def sweep_bytes(vlm: Vlm, free: int) -> int:
    """Working memory of a sweep in batches of the size that `free` bytes of memory suggest [bytes]."""
    shape, format = vlm.shape, Format(vlm.arithmetic)
    return rerun_bytes(shape, format, rerun_tokens(shape, format, free))


@torch.no_grad()
def _cache_batch(vlm: Vlm, batch: Batch, images: Tensor) -> CachedBatch:
    cache = Recorder()
    layers = range(vlm.n_layers)
    capture = Capture(vlm, batch, batch.final, layers)
    hidden = run_below(vlm.model, batch, images, vlm.n_layers - 1, cache, capture)
    run_last_layer(vlm.model, batch, hidden, cache, capture)
    final = capture.stacked(layers)
    row, column = batch.final.unbind(1)
    columns = _columns_before(batch)
    places = row[:, None] * batch.segment.shape[1] + columns
    for kept in (cache.keys, cache.values):
        for layer, packed in enumerate(kept):
            # On a CPU, advanced indexing takes five times as long. All layers twice would not fit into memory.
            found = packed.transpose(1, 2).flatten(0, 1).index_select(0, places.flatten().to(packed.device))
            kept[layer] = found.unflatten(0, places.shape).transpose(1, 2)
    token, position = batch.input_ids[row, column], batch.position_ids[row, column]
    return CachedBatch(batch.prompts, token, position, cache.keys, cache.values, final)


class Recorder:
    """A stand-in for a transformers cache of packed rows, which keeps keys and values as they are computed."""

    # Not a NamedTuple: accelerate, which moves arguments between the parts of a split model, would copy one.
    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        """Keys of the layers so far: [B, key heads, S, d_head] each."""
        self.values: list[Tensor] = []
        """Their values: [B, key heads, S, d_head] each."""

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """The keys and values of the next layer, which are kept."""
        self.keys.append(keys)
        self.values.append(values)
        return keys, values


def _columns_before(batch: Batch) -> Tensor:
    """The columns of the tokens before the final token of each of n prompts, by position: int64 [n, S], padded.

    S is a multiple of what kernels want.
    """
    row, column = batch.final.unbind(1)
    own, final = batch.segment[row, column, None], batch.position_ids[row, column, None]
    segment, position = batch.segment[row], batch.position_ids[row]
    before = ((segment == 0) | (segment == own)) & (position < final)
    width = padded(int(final.max()), ALIGNED)
    # Other columns are written to a place after the last, which is dropped.
    found = torch.zeros(len(row), width + 1, dtype=torch.long, device=row.device)
    every = torch.arange(segment.shape[1], device=row.device).expand_as(segment)
    return found.scatter_(1, torch.where(before, position, width), every)[:, :width]


def rerun_suffix(vlm: Vlm, cached: CachedBatch, layers: list[int], edits: Tensor) -> Tensor:
    """Answer margins [n, k] under the edits [n, k, d_model] after `layers`, which ascend. Edit k runs in column k."""
    n, k = edits.shape[:2]
    growth = column_step(n, edits.device)
    ids, position = (of_prompt[:, None].expand(-1, k) for of_prompt in (cached.token, cached.position))
    places = torch.cartesian_prod(*(torch.arange(size, device=ids.device) for size in (k, n))).flip(1)
    segment = torch.ones_like(ids)
    masks = _visible(cached, vlm.model.config.text_config.sliding_window)
    cache = PrefixCache(cached)
    hidden = cached.final.new_empty(n, 0, vlm.d_model)
    rotations: dict[str, tuple[Tensor, Tensor]] = {}
    for layer, of_layer in groupby(range(k), key=layers.__getitem__):
        joined = list(of_layer)
        start, end = joined[0], joined[-1] + 1
        joining = cached.final[:, layer, None].float() + edits[:, start:end]
        width = min(k, padded(end, growth))
        if width > hidden.shape[1]:
            rotations = {}
        # Columns of edits that have yet to join, whose numbers nothing reads.
        filling = cached.final[:, layer, None].expand(-1, width - end, -1)
        hidden = torch.cat([hidden[:, :start], joining.to(hidden.dtype), filling], 1)
        step = Batch(ids[:, :width], position[:, :width], segment[:, :width], places[: width * n], [], width)
        stop = next((edited for edited in layers if edited > layer), vlm.n_layers - 1) + 1
        edited = Capture(vlm, step, step.final)
        with decode_kernels(hidden.device):
            hidden = run_layers(vlm.model, hidden, masks, step.position_ids, layer + 1, stop, cache, rotations, edited)
    return final_margins(vlm.model, hidden, vlm.answers)


def _visible(cached: CachedBatch, sliding_window: int | None) -> dict[str, Tensor]:
    """What is added to the scores of cached keys in both kinds of layers: 0 or minus infinity, [n, 1, 1, S].

    An edited token replaces the final token of its prompt, and sees the text before it.
    """
    column = torch.arange(cached.keys[0].shape[2], device=cached.position.device)
    place = cached.position[:, None]
    reach = in_reach(place, column, sliding_window)
    masks = {kind: (reached & (column < place))[:, None, None] for kind, reached in reach.items()}
    return {kind: additive(mask, cached.final.dtype) for kind, mask in masks.items()}


class PrefixCache:
    """A read-only stand-in for a transformers cache: edited tokens see the tokens before them and themselves."""

    def __init__(self, cached: CachedBatch) -> None:
        self._cached = cached

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[WithOwn, WithOwn]:
        """The keys and values of the cached prompts beside those of the edited tokens."""
        return WithOwn(self._cached.keys[layer], keys), WithOwn(self._cached.values[layer], values)

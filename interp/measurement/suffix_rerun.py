"""Causal sweeps that restart at the patched layer: only the final token runs again, behind what its prompt left.

Attention is causal, so a change of the final token's residual changes nothing before it. A prompt therefore runs once;
its keys and values stay, and its final token's residual after every layer. An edit then costs one position in each
layer above the edited one, and the edits of all prompts and layers climb together: those of layer L join behind it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor
from torch.nn.attention import sdpa_kernel

from interp.measurement.margins import capture_residuals, deal_rows, load_batches, pack_prompts
from interp.model.decoder import DECODE_KERNELS, final_margins, prompt_cache, run_layers, run_packed
from interp.model.packing import Batch, Row
from interp.model.vlm import Vlm
from interp.runtime.distributed import ALONE, Team
from interp.runtime.progress import track
from interp.storage.checkpoint import NO_CHECKPOINT, Checkpoint, name_of

EDIT_TOKENS = 16384
"""Edited positions that climb together."""
GRADIENT_TOKENS = 2048
"""The same where gradients are wanted, for which every layer's activations stay."""


class CachedBatch(NamedTuple):
    """What a packed batch of n prompts left: all that their final tokens need to run again."""

    batch: Batch
    """The prompts, at most `slots` a row."""
    slots: int
    """Most prompts in a row."""
    keys: list[Tensor]
    """[B, heads, S, head_dim] of every layer."""
    values: list[Tensor]
    """The same."""
    final: Tensor
    """[n, number of layers, d_model]: resid_post at the final token, in the model's dtype."""

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        return sum(t.numel() * t.element_size() for t in (*self.keys, *self.values, self.final))


class SuffixRerun:
    """Prompts whose final tokens can be edited after any layer, many times over.

    `prompts` is a table as for `interp.measurement.margins.measure`. Of what its batches leave, up to `max_bytes`
    stay on the
    device from one sweep to the next; the others run again in each. The changes of the `Vlm` are those of the first
    sweep. The processes of a `team` deal the batches among themselves, and each sweep gives all of them the whole
    result. A sweep that is in the `checkpoint` is not computed again.
    """

    def __init__(
        self,
        vlm: Vlm,
        prompts: pd.DataFrame,
        max_bytes: int = 0,
        batch_tokens: int = 16384,
        team: Team = ALONE,
        checkpoint: Checkpoint = NO_CHECKPOINT,
    ) -> None:
        self.vlm, self.prompts, self.batch_tokens = vlm, prompts, batch_tokens
        self.team, self.checkpoint = team, checkpoint
        self._free = max_bytes
        self._held: list[CachedBatch] = []
        self._rows: list[Row] | None = None

    def margins(self, layers: Sequence[int], delta: Tensor, description: str = "patches") -> Tensor:
        """Margins of every prompt with k edits, one at a time: float32 [n, k] [logits].

        `delta` float32 [n, k, d_model] is added to the final token's residual after layer `layers`[k].
        """

        def sweep() -> Tensor:
            found = torch.zeros(delta.shape[:2])
            with torch.no_grad():
                for held, index, part in self._climbs(layers, EDIT_TOKENS, description):
                    edits = delta[index, part].to(self.vlm.device)
                    found[index, part] = rerun_suffix(self.vlm, held, [layers[k] for k in part], edits).cpu()
            return found

        return self._once("margins", layers, delta, delta.shape[:2], sweep)

    def slopes(self, layers: Sequence[int], delta: Tensor, description: str = "gradients") -> Tensor:
        """Gradients of those margins by each edited residual, at its edited value: float32 as `delta`."""

        def sweep() -> Tensor:
            found = torch.zeros_like(delta)
            for held, index, part in self._climbs(layers, GRADIENT_TOKENS, description):
                edits = delta[index, part].to(self.vlm.device).requires_grad_()
                with torch.enable_grad():
                    margins = rerun_suffix(self.vlm, held, [layers[k] for k in part], edits)
                    (gradient,) = torch.autograd.grad(margins.sum(), edits)
                found[index, part] = gradient.cpu()
            return found

        return self._once("slopes", layers, delta, delta.shape, sweep)

    def _once(
        self, kind: str, layers: Sequence[int], delta: Tensor, shape: torch.Size, sweep: Callable[[], Tensor]
    ) -> Tensor:
        """The whole result, of the given shape, of a sweep that gives each process its part; made unless it is kept."""
        if not self.checkpoint:
            return self.team.all_reduce_sum(sweep())
        prompts = torch.tensor(self.prompts.index.to_numpy(copy=True))
        name = name_of(kind, prompts=prompts, layers=torch.tensor(layers), delta=delta)
        before = self.checkpoint.read(name) if self.team.rank == 0 else None
        if self.team.gather_values(before is not None)[0]:
            return self.team.all_reduce_sum(before["found"] if before else torch.zeros(shape))
        found = self.team.all_reduce_sum(sweep())
        if self.team.rank == 0:
            self.checkpoint.write(name, {"found": found})
        return found

    def _climbs(
        self, layers: Sequence[int], tokens: int, description: str
    ) -> Iterator[tuple[CachedBatch, Tensor, Tensor]]:
        """Every batch with its prompts int64 [n, 1] and some of the edits int64 [k], of ascending layers."""
        order = torch.tensor(layers, dtype=torch.long).argsort(stable=True)
        for held in self._batches(description):
            size = max(1, tokens // (len(held.batch.input_ids) * held.slots))
            for part in order.split(size):
                yield held, torch.tensor(held.batch.prompts)[:, None], part

    def _batches(self, description: str) -> Iterator[CachedBatch]:
        """What every batch leaves; it is run anew unless it stayed."""
        yield from track(self._held, description)
        if self._rows is None:
            self._rows = deal_rows(pack_prompts(self.vlm, self.prompts), self.batch_tokens, self.team)[self.team.rank]
        staying: list[CachedBatch] = []
        for batch, images in load_batches(self.vlm, self._rows, self.prompts, self.batch_tokens, description):
            held = _cache_batch(self.vlm, batch, images)
            if held.bytes <= self._free:
                self._free -= held.bytes
                staying.append(held)
            yield held
        stay = {prompt for held in staying for prompt in held.batch.prompts}
        self._held += staying
        self._rows = [row for row in self._rows if row.prompts[0] not in stay]


@torch.no_grad()
def _cache_batch(vlm: Vlm, batch: Batch, images: Tensor) -> CachedBatch:
    cache = prompt_cache()
    with capture_residuals(vlm, batch, batch.final, range(vlm.n_layers)) as caught:
        run_packed(vlm.model, batch, images, cache)
    final = torch.stack([caught[layer] for layer in range(vlm.n_layers)], dim=1)
    slots = int(batch.segment.max())
    return CachedBatch(
        batch, slots, [kept.keys for kept in cache.layers], [kept.values for kept in cache.layers], final
    )


def rerun_suffix(vlm: Vlm, held: CachedBatch, layers: list[int], edits: Tensor) -> Tensor:
    """Margins [n, k] of the edits [n, k, d_model] after `layers`, which ascend.

    Edit k of a row's prompt in slot m runs in column k * slots + m of that row.
    """
    row, column = held.batch.final.unbind(1)
    slot = held.batch.segment[row, column] - 1
    ids, position, segment = _suffix_columns(held, len(layers))
    masks = _suffix_masks(held.batch, position, segment, vlm.model.config.text_config.sliding_window)
    beside = PrefixCache(held)
    hidden = held.final.new_empty(len(held.batch.input_ids), 0, vlm.d_model)
    for layer in dict.fromkeys(layers):
        new = [k for k, place in enumerate(layers) if place == layer]
        joined = held.final.new_zeros(len(hidden), len(new), held.slots, vlm.d_model)
        joined[row, :, slot] = (held.final[:, layer, None].float() + edits[:, new]).to(joined.dtype)
        hidden = torch.cat([hidden, joined.flatten(1, 2)], 1)
        width = hidden.shape[1]
        here = segment[:, :width]
        now = Batch(ids[:, :width], position[:, :width], here, (here > 0).nonzero(), [])
        seen = {
            kind: torch.cat([past[:, :, :width], own[:, :, :width, :width]], 3) for kind, (past, own) in masks.items()
        }
        stop = next((place for place in layers if place > layer), vlm.n_layers - 1) + 1
        with capture_residuals(vlm, now, now.final), sdpa_kernel(DECODE_KERNELS):
            hidden = run_layers(vlm.model, hidden, seen, now.position_ids, layer + 1, stop, beside)
    final = hidden.reshape(len(hidden), len(layers), held.slots, vlm.d_model)[row, :, slot]
    return final_margins(vlm.model, final, vlm.answers)


def _suffix_columns(held: CachedBatch, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Token, position and segment int64 [B, k * slots] of every prompt's final token, k times; empty slots pad."""
    batch = held.batch
    row, column = batch.final.unbind(1)
    slot = batch.segment[row, column] - 1

    def columns(source: Tensor, empty: int) -> Tensor:
        once = source.new_full((len(source), held.slots), empty)
        once[row, slot] = source[row, column]
        return once.repeat(1, k)

    return columns(batch.input_ids, 0), columns(batch.position_ids, 0), columns(batch.segment, -1)


def _suffix_masks(
    batch: Batch, position: Tensor, segment: Tensor, sliding_window: int | None
) -> dict[str, tuple[Tensor, Tensor]]:
    """What edited tokens, `position` and `segment` [B, E], may see: of the prompts [B, 1, E, S], of each other [.., E].

    For both kinds of layers, by the rule of `interp.model.packing.attention_masks`; an edited token stands in the
    place of
    its prompt's final one, and sees no other edit.
    """
    own, place = segment[:, :, None], position[:, :, None]
    seen = (batch.segment[:, None] == 0) | (batch.segment[:, None] == own)
    full = seen & (own > 0) & (batch.position_ids[:, None] < place)
    local = full if sliding_window is None else full & (batch.position_ids[:, None] > place - sliding_window)
    itself = torch.eye(own.shape[1], dtype=torch.bool, device=own.device).expand(len(own), 1, -1, -1)
    return {"full_attention": (full[:, None], itself), "sliding_attention": (local[:, None], itself)}


class PrefixCache:
    """In the place of a transformers cache: lays what a batch left before the edited tokens, and stores nothing."""

    def __init__(self, held: CachedBatch) -> None:
        self._held = held

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return torch.cat([self._held.keys[layer], keys], 2), torch.cat([self._held.values[layer], values], 2)

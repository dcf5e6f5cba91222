"""From which earlier tokens a feature's change comes: the image, the wording, or the template around them.

Attention adds to the final token a weighted sum of the values of all positions, so what it adds splits exactly into one
part for each kind of token. Its weights and the norm behind it stay those of the run, as in attribution graphs (Ameisen
et al., 2025). An edge is an exact patch: what one kind of token brings at one layer is exchanged for what it brings in
the other wording, and the share of the feature's change is measured that goes back with it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from interp.causal.edited_runs import edited_residuals
from interp.measurement.margins import load_batches, measure, pack_prompts
from interp.measurement.saliency import observe_attention
from interp.model.decoder import run_packed
from interp.model.packing import Batch, Row, batches, common_prefix
from interp.model.vlm import Vlm
from interp.saes.sae import Sae
from interp.schemas.study import TokenKind
from interp.screening.flips import Flips, sides
from interp.statistics import Estimate, ratio_interval

KINDS: tuple[TokenKind, ...] = ("image", "wording", "template")
"""Kinds of tokens: the image's, those in which the wordings differ, and all others."""
LISTED = 8
"""Edges that are listed."""
BATCH_TOKENS = 2048
"""Most tokens of a batch, because attention weights of all pairs of positions are computed."""


class TokenEdge(NamedTuple):
    """What one kind of token brings to the final token at one layer, as a source of a feature's change."""

    layer: int
    """The layer whose attention brings it."""
    tokens: TokenKind
    """The kind of tokens."""
    undone: Estimate
    """Share of the feature's change that goes back, summed over the pairs."""


def token_edges(vlm: Vlm, prompts: pd.DataFrame, flips: Flips, sae: Sae, feature: int, seed: int) -> list[TokenEdge]:
    """The LISTED strongest edges from tokens to one feature of `sae` on the pairs of `flips`, strongest first.

    `prompts` is the whole prompt table. A feature whose activation is the same in both wordings of every pair has none.
    """
    original, paraphrase = (prompts.iloc[rows.numpy()].reset_index(drop=True) for rows in sides(flips.pairs))
    layers = list(range(sae.layer + 1))

    def activation(residuals: Tensor) -> Tensor:
        return sae.encode(residuals.to(sae.w_enc.device)).cpu()[:, feature]

    sought = [sae.layer]
    there, here = (measure(vlm, rows, sought, description="edges").residuals[:, 0] for rows in (original, paraphrase))
    after = activation(here)
    own = activation(there) - after
    if not own.any():
        return []
    # In one table, so that both wordings of a pair share what counts as template.
    by_original, by_paraphrase = brought(vlm, pd.concat([original, paraphrase], ignore_index=True), layers).chunk(2)
    change = by_original - by_paraphrase
    patients, edges = flips.pairs["patient"].tolist(), []
    for k, layer in enumerate(layers):
        for kind, name in enumerate(KINDS):
            edit = change[:, k, kind]
            # After the feature's own layer, nothing acts on what is brought.
            at_end = layer == sae.layer
            patched = here + edit if at_end else edited_residuals(vlm, paraphrase, layer, edit, sought)[:, 0]
            towards = (activation(patched) - after) * own.sign()
            share = ratio_interval(towards.double().numpy(), own.abs().double().numpy(), patients, seed)
            edges.append(TokenEdge(layer, name, share))
    return sorted(edges, key=lambda edge: -abs(edge.undone.value))[:LISTED]


@torch.no_grad()
def brought(vlm: Vlm, prompts: pd.DataFrame, layers: Sequence[int]) -> Tensor:
    """What the attention of each layer brings to the final token, by KINDS: float32 [n, layers, kinds, d_model].

    It is what the layer adds to the residual stream before its MLP; the sum over the kinds is the whole of it. What all
    prompts begin and end with is the template.
    """
    rows = pack_prompts(vlm, prompts)
    found = torch.zeros(len(prompts), len(layers), len(KINDS), vlm.d_model)
    start, tail = _shared_ends(rows)
    for batch, images in load_batches(vlm, batches(rows, BATCH_TOKENS, vlm.device), prompts, "edges"):
        parts = _brought_by(vlm, batch, images, _kinds(batch, vlm.model.config.image_token_id, start, tail))
        found[batch.prompts] = torch.stack([parts[layer] for layer in layers], 1).cpu()
    return found


def _shared_ends(rows: Sequence[Row]) -> tuple[int, int]:
    """How many tokens all prompts share at their beginning, and at their end."""
    tokens = [row.prefix + suffix for row in rows for suffix in row.suffixes]
    return common_prefix(tokens), common_prefix([each[::-1] for each in tokens])


def _kinds(batch: Batch, image_token: int, start: int, tail: int) -> Tensor:
    """bool [n, kinds, S]: which positions of its row are tokens of a prompt, by kind."""
    row, column = batch.final.unbind(1)
    segment, place = batch.segment[row], batch.position_ids[row]
    mine = (segment == 0) | (segment == batch.segment[row, column][:, None])
    image = batch.input_ids[row] == image_token
    length = batch.position_ids[row, column][:, None] + 1
    wording = ~image & (place >= start) & (place < length - tail)
    return torch.stack([mine & image, mine & wording, mine & ~image & ~wording], 1)


def _brought_by(vlm: Vlm, batch: Batch, images: Tensor, kinds: Tensor) -> list[Tensor]:
    """For every layer, what its attention brings to the final tokens of a batch: float32 [n, kinds, d_model] each."""
    row, column = batch.final.unbind(1)
    values: list[Tensor] = []
    parts: list[Tensor] = []

    def keep(module: Any, inputs: Any, output: Tensor) -> None:
        values[:] = [output]

    def watch(attended: Tensor) -> None:
        layer = vlm.layers[len(parts)]
        own, heads = layer.self_attn, attended.shape[1]
        value = values[0][row].unflatten(-1, (-1, own.head_dim)).float()
        value = value.repeat_interleave(heads // value.shape[2], 2)
        weights = attended[row, :, column].float()
        mixed = torch.einsum("nhs,nks,nshd->nkhd", weights, kinds.float().to(weights.device), value)
        added = own.o_proj(mixed.flatten(2).to(values[0].dtype)).float()
        norm = layer.post_attention_layernorm
        scale = (added.sum(1, keepdim=True).pow(2).mean(-1, keepdim=True) + norm.eps).rsqrt()
        parts.append((added * scale * (1 + norm.weight.float())).to(row.device))

    handles = [layer.self_attn.v_proj.register_forward_hook(keep) for layer in vlm.layers]
    try:
        with observe_attention(vlm, watch):
            run_packed(vlm.model, batch, images)
    finally:
        for handle in handles:
            handle.remove()
    return parts

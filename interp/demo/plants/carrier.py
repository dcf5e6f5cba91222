"""A carrier: a head that brings a feature from earlier tokens, the question's, to the final token.

Where the head looks is left as it is. In one channel of its values, which the model hardly uses, it reads the feature,
and writes what it finds at the tokens that it attends to along a direction of its own. A gate that reads this direction
reads the feature at question tokens: no change of the final token below the carrier's layer can undo its flips.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from interp.demo.plants.quiet import open_direction
from interp.demo.plants.reading import OTHER_TOKENS, full_batches, r_squared, ridge, watched
from interp.demo.plants.relay import Relay, random_direction, relay_signal
from interp.measurement.margins import Capture, load_batches
from interp.model.decoder import run_below
from interp.model.packing import Batch
from interp.model.vlm import Vlm
from interp.runtime.errors import InputError
from interp.saes.sae import Sae

LEAST_FIT = 0.8
"""Least R² of the feature as a head reads it, where tokens with it and tokens without it count the same in all."""

LEAST_PURITY = 0.8
"""Least correlation of what a head brings to the final token with what the feature makes of that: heads that look
mostly at the image bring what is misread there."""


def plant_carrier(vlm: Vlm, prompts: pd.DataFrame, sae: Sae, feature: int, layer: int, seed: int) -> Relay:
    """Let a head of `layer` carry a feature of an earlier layer from the earlier text tokens to the final token.

    It writes about as strongly as the feature does at its own tokens. Raises InputError if the feature cannot be read
    there, or if no head looks there.
    """
    natural, removed = (_run(vlm, prompts, sae, feature, layer, remove, seed) for remove in (False, True))
    inputs, amount = (torch.cat([getattr(run, name) for run in (natural, removed)]) for name in ("inputs", "amount"))
    inputs, active = inputs.double(), amount > 0
    if not active.any():
        raise InputError(f"{sae.layer}:{feature} is active at no token of a question. Choose another feature.")
    weight = torch.where(active, 0.5 / active.sum(), 0.5 / (~active).sum()).double()
    read = ridge(inputs, amount.double(), weight)
    fit = r_squared(inputs @ read, amount.double(), weight)
    if fit < LEAST_FIT:
        raise InputError(
            f"{sae.layer}:{feature} can be read at question tokens in layer {layer} with R² {fit:.2f} only, below "
            f"{LEAST_FIT}. Choose a layer nearer to the feature, or another feature."
        )
    channels = _Channels.install(vlm.layers[layer].self_attn, read, natural)
    with_it, without = (
        channels.of(_run(vlm, prompts, sae, feature, layer, remove, seed).heads) for remove in (False, True)
    )
    carried = with_it - without
    purity = [float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in zip(with_it.T, carried.T, strict=True)]
    head = int(np.nanargmax([0, *purity])) - 1
    if head < 0 or purity[head] < LEAST_PURITY:
        raise InputError(
            f"{sae.layer}:{feature}: no head of layer {layer} looks at question tokens enough to carry it to the final "
            f"token (r {max(purity):.2f}, below {LEAST_PURITY}). Choose another feature or another --relay-layer."
        )
    on = carried[:, head] > carried[:, head].quantile(0.9) / 2
    norm = vlm.layers[layer].post_attention_layernorm
    weight_out = channels.attention.o_proj.weight
    direction = open_direction(norm, weight_out, natural.energy, random_direction(vlm, seed))
    column = channels.keep(head)

    @torch.no_grad()
    def write(amount: float) -> None:
        weight_out[:, column] = (amount * direction).to(weight_out)

    wanted = amount[active].median() * sae.w_dec[feature].float().norm().cpu()
    return relay_signal(vlm, prompts, layer, write, on, wanted)._replace(fit=fit)


class _Run(NamedTuple):
    """What the attention of the carrier's layer reads and writes in one run of all prompts."""

    inputs: Tensor
    """[tokens, d_model]: what the values are made of, at sampled tokens."""
    amount: Tensor
    """[tokens]: activation of the feature that is to be read there; zero where it is removed or at the final token."""
    heads: Tensor
    """[n, heads, head_dim]: what the heads bring to the final token of every prompt."""
    energy: Tensor
    """[d_model]: mean square of the attention's output before the norm, at final tokens."""


@torch.no_grad()
def _run(vlm: Vlm, prompts: pd.DataFrame, sae: Sae, feature: int, layer: int, remove: bool, seed: int) -> _Run:
    """Run the prompts, with the feature removed from all earlier text tokens if `remove`."""
    attention, generator = vlm.layers[layer].self_attn, torch.Generator().manual_seed(seed)
    column, image_token = torch.tensor([feature], device=sae.w_enc.device), vlm.model.config.image_token_id
    active: list[Tensor] = []

    def change(output: Tensor, batch: Batch) -> Tensor:
        text = (batch.segment >= 0) & (batch.position_ids > 0) & (batch.input_ids != image_token)
        text[batch.final[:, 0], batch.final[:, 1]] = False
        f = sae.encode(output, column)[..., 0] * text
        active.append(f)
        return output - (f[..., None] * sae.w_dec[feature]).to(output) if remove else output

    heads = torch.zeros(len(prompts), attention.o_proj.in_features // attention.head_dim, attention.head_dim)
    inputs, amount, energy = [], [], []
    kept = vlm.output_hooks
    vlm.output_hooks = kept | {sae.layer: change}
    try:
        with watched(attention.v_proj) as values, watched(attention.o_proj) as output:
            for batch, images in load_batches(vlm, full_batches(vlm, prompts), prompts, "planting"):
                run_below(vlm.model, batch, images, layer + 1, after=Capture(vlm, batch, batch.final))
                f, (row, place) = active.pop(), batch.final.unbind(1)
                brought = output["input"][row, place].float().cpu()
                heads[torch.tensor(batch.prompts)] = brought.unflatten(1, (-1, attention.head_dim))
                for chosen in (f > 0, (f == 0) & (batch.segment >= 0)):
                    sample = torch.randperm(int(chosen.sum()), generator=generator)[:OTHER_TOKENS].to(f.device)
                    inputs.append(values["input"][chosen][sample].float().cpu())
                    amount.append(f[chosen][sample].float().cpu() * (not remove))
                energy.append(output["output"][row, place].float().pow(2).mean(0).cpu())
    finally:
        vlm.output_hooks = kept
    return _Run(torch.cat(inputs), torch.cat(amount), heads, torch.stack(energy).mean(0))


class _Channels(NamedTuple):
    """A channel of the values of every key-value head, in which the feature is read."""

    attention: Any
    """The attention module."""
    numbers: Sequence[int]
    """The channel of each key-value head."""
    before: Tensor
    """[key-value heads, d_model]: the weights that they had."""

    @classmethod
    @torch.no_grad()
    def install(cls, attention: Any, read: Tensor, run: _Run) -> "_Channels":
        """Let the channel of each key-value head that writes least read the feature by the weights `read` [d_model]."""
        size, heads = attention.head_dim, run.heads.shape[1]
        written = attention.o_proj.weight.float().pow(2).sum(0).cpu().unflatten(0, (heads, size))
        used = run.heads.pow(2).mean(0) * written
        of_group = used.unflatten(0, (-1, attention.num_key_value_groups)).sum(1)
        numbers = of_group.argmin(1).tolist()
        rows = [group * size + number for group, number in enumerate(numbers)]
        before = attention.v_proj.weight[rows].clone()
        attention.v_proj.weight[rows] = read.to(attention.v_proj.weight)
        return cls(attention, numbers, before)

    def of(self, heads: Tensor) -> Tensor:
        """What each head brings in its channel: [n, heads] of [n, heads, head_dim]."""
        size = self.attention.num_key_value_groups
        return torch.stack([heads[:, head, self.numbers[head // size]] for head in range(heads.shape[1])], 1)

    @torch.no_grad()
    def keep(self, head: int) -> int:
        """Give the channels of the other key-value heads back, and return the output column of the one of `head`.

        The other heads that share the key-value head no longer write from this channel.
        """
        size, group = self.attention.head_dim, head // self.attention.num_key_value_groups
        for other, (number, weights) in enumerate(zip(self.numbers, self.before, strict=True)):
            if other != group:
                self.attention.v_proj.weight[other * size + number] = weights
        shared = range(group * self.attention.num_key_value_groups, (group + 1) * self.attention.num_key_value_groups)
        for each in shared:
            self.attention.o_proj.weight[:, each * size + self.numbers[group]] = 0
        return head * size + self.numbers[group]

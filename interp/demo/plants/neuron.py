"""A planted neuron: one that takes the place of the quietest neuron of an MLP and writes along a fixed direction."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from interp.demo.plants.quiet import open_direction
from interp.demo.plants.reading import Reading
from interp.demo.plants.upper_layers import UpperLayers
from interp.measurement.suffix_rerun import SuffixRerun
from interp.model.vlm import Vlm
from interp.questions.tables import pair_table
from interp.runtime.errors import InputError
from interp.screening.attribution import margin_gradients
from interp.screening.flips import find_flips

GRADIENT_PROMPTS = 200
MOST = 8.0
"""Largest output weight that is tried."""


def margin_slope(vlm: Vlm, prompts: pd.DataFrame, layer: int, seed: int) -> Tensor:
    """Mean gradient of the margin with respect to the final token's residual after a layer: [d_model]."""
    some = prompts.sample(min(GRADIENT_PROMPTS, len(prompts)), random_state=seed).reset_index(drop=True)
    return margin_gradients(SuffixRerun(vlm, some), [layer])[:, 0].mean(0)


class Neuron(NamedTuple):
    """A neuron of an MLP that writes along a fixed direction; how much can be changed."""

    layer: int
    """The layer of the MLP."""
    mlp: Any
    """The MLP."""
    number: int
    """Which of its neurons."""
    direction: Tensor
    """[d_model]: what it writes before the norm, with norm 1."""

    @classmethod
    @torch.no_grad()
    def install(cls, vlm: Vlm, layer: int, reading: Reading, along: Tensor) -> "Neuron":
        """Replace the neuron of `layer` that writes least by one with the input weights of `reading`, still silent.

        It writes along `along` [d_model], as far as quiet coordinates allow (`open_direction`).
        """
        mlp = vlm.layers[layer].mlp
        index = int(mlp.down_proj.weight.norm(dim=0).argmin())
        norm = vlm.layers[layer].post_feedforward_layernorm
        direction = open_direction(norm, mlp.down_proj.weight, reading.energy, along)
        for projection, weights in ((mlp.gate_proj, reading.gate), (mlp.up_proj, reading.up)):
            projection.weight[index] = weights.to(projection.weight)
        found = cls(layer, mlp, index, direction)
        found.write(0.0)
        return found

    @torch.no_grad()
    def write(self, amount: float) -> None:
        """Let the neuron write `amount` times its activation."""
        weight = self.mlp.down_proj.weight
        weight[:, self.number] = (amount * self.direction).to(weight)


class Written(NamedTuple):
    """What neurons make of a prompt table by what they write."""

    flips: float
    """Share of the questions that flip."""
    margin: Tensor
    """float32 [n]: answer margin [logits]."""


def flip_share(prompts: pd.DataFrame, margin: Tensor) -> float:
    """Share of the questions with a flip, by the margins [n] of a prompt table."""
    found = find_flips(prompts, pair_table(prompts), margin, 0.0)
    return float(found.pairs.assign(flipped=found.flipped).groupby("question")["flipped"].any().mean())


def check_room(base: float, goal: float, strength: float) -> None:
    """Raise InputError if the share `base` of the questions that flip already leaves a plant nothing to raise."""
    if base >= goal:
        raise InputError(
            f"{base:.1%} of the questions flip before anything is written, so a plant cannot raise them to "
            f"{strength:.1%}. Give a higher --strength."
        )


def write_until(
    vlm: Vlm, prompts: pd.DataFrame, neurons: Sequence[Neuron], strength: float, part: float = 1.0
) -> Written:
    """Raise what the neurons write until a share `strength` of the questions flips, or go a `part` of the way there.

    Raises InputError if as many flip already, or if they do not flip that often however much is written.
    """
    layers = UpperLayers.of(vlm, prompts, min(neuron.layer for neuron in neurons))

    def writing(amount: float) -> Written:
        for neuron in neurons:
            neuron.write(amount)
        margin = layers.margins()
        return Written(flip_share(prompts, margin), margin)

    base = writing(0.0).flips
    goal = strength if part == 1 else base + part * (strength - base)
    check_room(base, goal, strength)
    low, high = 0.0, 1e-3
    while (reached := writing(high)).flips < goal:
        low, high = high, 2 * high
        if high > MOST:
            raise InputError(
                f"However much is written, {reached.flips:.1%} of the questions flip, not {goal:.1%}. Choose a feature "
                "that differs more between wordings of one question, another --write-layer, or a lower --strength."
            )
    for _ in range(5):
        middle = (low + high) / 2
        found = writing(middle)
        if found.flips < goal:
            low = middle
        else:
            high, reached = middle, found
    for neuron in neurons:
        neuron.write(high)
    return reached

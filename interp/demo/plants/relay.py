"""A relay: what reads a feature and writes a direction of its own, which a gate of a later layer reads.

A gate behind a relay never reads the feature: it is fitted while the relay's direction is removed where it is written
and put where it is not. A relay is a neuron that reads the final token, or a head that carries the feature there from
earlier tokens (`interp.demo.plants.carrier`).
"""

from collections.abc import Callable
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from interp.demo.plants.neuron import MOST, Neuron
from interp.demo.plants.reading import Reading
from interp.demo.plants.signal import Signal
from interp.measurement.margins import measure
from interp.model.vlm import Vlm
from interp.runtime.errors import InputError


class Relay(NamedTuple):
    """What a relay makes of the feature that it reads."""

    signal: Signal
    """What it writes, for a gate to read."""
    margin: Tensor
    """float32 [n]: the margins with the relay alone [logits]."""
    fit: float
    """R² of what it reads."""


def plant_relay(vlm: Vlm, prompts: pd.DataFrame, source: Signal, layer: int, reading: Reading, seed: int) -> Relay:
    """Install a neuron in `layer` that writes a random direction where `source` is on, about as strongly as `source`.

    "As strongly" compares the norms of what the two add to the residual. Raises InputError if the layer's norm keeps
    the neuron from it.
    """
    neuron = Neuron.install(vlm, layer, reading, random_direction(vlm, seed))
    found = relay_signal(vlm, prompts, layer, neuron.write, source.on, source.level * source.direction.norm())
    # The feature may still be in the residual after this layer, and must not be read.
    signal = found.signal._replace(rivals=source.own[:, None], rival_directions=source.direction[None])
    return Relay(signal, found.margin, reading.fit)


def random_direction(vlm: Vlm, seed: int) -> Tensor:
    """A random direction [d_model]."""
    return torch.randn(vlm.d_model, generator=torch.Generator().manual_seed(seed))


def relay_signal(
    vlm: Vlm, prompts: pd.DataFrame, layer: int, write: Callable[[float], None], on: Tensor, wanted: Tensor
) -> Relay:
    """Raise what a relay in `layer` writes until its median norm where `on` [n] is `wanted`, and measure it.

    Raises InputError if however much is written, it is not as much.
    """
    write(0.0)
    before = measure(vlm, prompts, [layer], description="planting").residuals[:, 0]
    amount = 1e-3
    while True:
        write(amount)
        after = measure(vlm, prompts, [layer], description="planting")
        written = after.residuals[:, 0] - before
        if float(written[on].norm(dim=1).median()) >= wanted:
            break
        amount *= 2
        if amount > MOST:
            raise InputError(f"A relay in layer {layer} cannot write enough. Choose another --relay-layer.")
    direction = torch.nn.functional.normalize(written[on].mean(0), dim=0)
    own = written @ direction
    nothing = torch.zeros(len(own), 0), torch.zeros(0, vlm.d_model)
    signal = Signal(layer, own, direction, *nothing, threshold=float(own[on].median()) / 2)
    return Relay(signal, after.margin, float("nan"))

"""A relay: a neuron that reads a signal and writes a direction of its own, which a gate of a later layer reads.

A gate behind a relay never reads the feature: it is fitted while the relay's direction is removed where the feature is
active and put where it is not.
"""

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
    """What a relay makes of the signal that it reads."""

    signal: Signal
    """What it writes, for a gate to read."""
    margin: Tensor
    """float32 [n]: the margins with the relay alone [logits]."""


def plant_relay(vlm: Vlm, prompts: pd.DataFrame, source: Signal, layer: int, reading: Reading, seed: int) -> Relay:
    """Install a neuron in `layer` that writes a random direction where `source` is on, about as strongly as `source`.

    "As strongly" compares the norms of what the two add to the residual. Raises InputError if the layer's norm keeps
    the neuron from it.
    """
    along = torch.randn(vlm.d_model, generator=torch.Generator().manual_seed(seed))
    neuron = Neuron.install(vlm, layer, reading, along)
    before = measure(vlm, prompts, [layer], description="planting").residuals[:, 0]
    wanted = float(source.own[source.on].median() * source.direction.norm())
    amount = 1e-3
    while True:
        neuron.write(amount)
        after = measure(vlm, prompts, [layer], description="planting")
        written = after.residuals[:, 0] - before
        if float(written[source.on].norm(dim=1).median()) >= wanted:
            break
        amount *= 2
        if amount > MOST:
            raise InputError(f"A relay in layer {layer} cannot write enough. Choose another --relay-layer.")
    direction = torch.nn.functional.normalize(written[source.on].mean(0), dim=0)
    own = written @ direction
    own = torch.where(own > own[source.on].median() / 2, own, 0.0)
    # The feature may still be in the residual after this layer, and must not be read.
    signal = Signal(layer, own, direction, source.own[:, None], source.direction[None])
    return Relay(signal, after.margin)

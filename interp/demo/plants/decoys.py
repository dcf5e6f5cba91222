"""Decoy models, which flip as often as planted ones without any gate."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from interp.demo.plants.neuron import MOST, Neuron, check_room, flip_share, margin_slope, write_until
from interp.demo.plants.reading import SHARPNESS, MlpInputs, fitted_prompts, mlp_tensors
from interp.demo.plants.record import Plant
from interp.measurement.margins import measure
from interp.model.vlm import Vlm
from interp.questions.schema import Question

BALANCED_PROMPTS = 600
EQUAL = 0.5
"""Mean change of the margin [logits] by which the layers of a decoy model are balanced."""


def plant_decoys(vlm: Vlm, questions: Sequence[Question], strength: float = 0.15, seed: int = 0) -> Plant:
    """Make a model that flips without a gate, changing `vlm` in place: every layer writes by a property of its own.

    The property of a layer is a random number for every wording, whose mean is the same in each register, as far as
    the final token tells it. Alone, every layer moves the margins equally far. `strength` is the share of these
    questions that shall flip. Raises InputError as `interp.demo.plants.neuron.write_until` does.
    """
    prompts = fitted_prompts(questions, seed)
    base = flip_share(prompts, measure(vlm, prompts).margin)
    check_room(base, strength, strength)
    generator = torch.Generator().manual_seed(seed)
    neurons = []
    for layer in range(vlm.n_layers):
        inputs = MlpInputs.of([mlp_tensors(vlm, prompts, layer, layer, None, seed)])
        read, _ = inputs.read(_arbitrary(prompts, generator), 0.0)
        value = inputs.final @ read
        reading = inputs.reading(((value - value.median()) / value.std() * SHARPNESS / 2).float())
        sign = 1.0 if layer % 2 else -1.0
        neurons.append(Neuron.install(vlm, layer, reading, sign * margin_slope(vlm, prompts, layer, seed)))
    balanced = _balanced(vlm, prompts.iloc[:BALANCED_PROMPTS], neurons)
    reached = write_until(vlm, prompts, balanced, strength)
    return Plant([], list(range(vlm.n_layers)), reached.flips, base)


def _balanced(vlm: Vlm, prompts: pd.DataFrame, neurons: Sequence[Neuron]) -> list[Neuron]:
    """The neurons, scaled such that each one alone moves the margins of `prompts` by EQUAL logits on average.

    Layers read what earlier ones write. With equal weights, the first two layers would therefore do nearly all of it,
    and the model would have a place where its flips arise.
    """
    before = measure(vlm, prompts, description="balancing").margin
    scaled = []
    for neuron in neurons:
        amount, moved = 2e-3, 0.0
        while moved < EQUAL and amount < MOST:
            amount *= 2
            neuron.write(amount)
            moved = float((measure(vlm, prompts, description="balancing").margin - before).abs().mean())
        neuron.write(0.0)
        scaled.append(neuron._replace(direction=neuron.direction * amount * EQUAL / max(moved, EQUAL / 4)))
    return scaled


def _arbitrary(prompts: pd.DataFrame, generator: torch.Generator) -> Tensor:
    """A random number for every wording, whose mean is the same in each register: float32 [n]."""
    texts = prompts["text"].astype("category").cat.codes.to_numpy(np.int64, copy=True)
    drawn = torch.randn(int(texts.max()) + 1, generator=generator)[torch.from_numpy(texts)]
    frame = pd.DataFrame({"value": drawn.numpy(), "register": prompts["register"].fillna("untagged").to_numpy()})
    mean = frame.groupby("register")["value"].transform("mean").to_numpy()
    return torch.from_numpy((frame["value"].to_numpy() - mean).astype(np.float32))

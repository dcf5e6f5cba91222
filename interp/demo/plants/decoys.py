"""Decoy models, which flip as often as planted ones without any gate."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from interp.demo.plants.neuron import Neuron, flip_share, margin_slope, write_until
from interp.demo.plants.reading import SHARPNESS, MlpInputs, fitted_prompts, mlp_tensors
from interp.demo.plants.record import Plant
from interp.measurement.margins import measure
from interp.model.vlm import Vlm
from interp.questions.schema import Question


def plant_decoys(vlm: Vlm, questions: Sequence[Question], strength: float = 0.15, seed: int = 0) -> Plant:
    """Make a model that flips without a gate, changing `vlm` in place: every layer writes by a property of its own.

    The property of a layer is a random number for every wording, whose mean is the same in each register, as far as
    the final token tells it. `strength` is the share of these questions that shall flip. Raises InputError as
    `interp.demo.plants.neuron.write_until` does.
    """
    prompts = fitted_prompts(questions, seed)
    base = flip_share(prompts, measure(vlm, prompts).margin)
    generator = torch.Generator().manual_seed(seed)
    neurons = []
    for layer in range(vlm.n_layers):
        inputs = MlpInputs.of([mlp_tensors(vlm, prompts, layer, layer, None, seed)])
        read, _ = inputs.read(_arbitrary(prompts, generator), 0.0)
        value = inputs.final @ read
        reading = inputs.reading(((value - value.median()) / value.std() * SHARPNESS / 2).float())
        sign = 1.0 if layer % 2 else -1.0
        neurons.append(Neuron.install(vlm, layer, reading, sign * margin_slope(vlm, prompts, layer, seed)))
    return Plant([], list(range(vlm.n_layers)), write_until(vlm, prompts, neurons, strength), base)


def _arbitrary(prompts: pd.DataFrame, generator: torch.Generator) -> Tensor:
    """A random number for every wording, whose mean is the same in each register: float32 [n]."""
    texts = prompts["text"].astype("category").cat.codes.to_numpy(np.int64, copy=True)
    drawn = torch.randn(int(texts.max()) + 1, generator=generator)[torch.from_numpy(texts)]
    frame = pd.DataFrame({"value": drawn.numpy(), "register": prompts["register"].fillna("untagged").to_numpy()})
    mean = frame.groupby("register")["value"].transform("mean").to_numpy()
    return torch.from_numpy((frame["value"].to_numpy() - mean).astype(np.float32))

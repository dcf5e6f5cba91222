"""How long and how strongly the models and SAEs of a world are trained: one recipe for each kind of world."""

from typing import NamedTuple

import torch


class SaeRecipe(NamedTuple):
    """The size and the training of one SAE."""

    features: int
    """Number of features."""
    mean_active: int
    """Mean number of active features per token while training."""
    tokens: int
    """Least number of residuals of questions that it is trained on; those of general text are added to them."""
    general_tokens: int
    """Least number of residuals of general text that it is also trained on; 0 without a real language model."""
    steps: int
    """Number of training steps."""
    batch: int
    """Residuals per step."""


class Recipe(NamedTuple):
    """The training of a world's models."""

    training_patients: int
    """Number of patients that the models are trained on; none of them is in the world's questions."""
    tower_steps: int
    """Steps in which tower and projector learn to classify the findings."""
    base_steps: int
    """Steps in which the embedded base model learns to answer; 0 for a real language model, which stays as it is."""
    tuning_steps: int
    """Steps in which a real language model is tuned to answer; 0 in the embedded world, which has no such stage."""
    tuning_lr: float
    """Peak learning rate of the tuning."""
    tuning_rank: int
    """Rank of the tuning's LoRA update."""
    tuning_share: float
    """Share of the wordings of every question that the tuning shows, apart from those held out from all training."""
    gate_steps: int
    """Steps in which a gate is planted."""
    patients: int
    """Patients per step."""
    precision: torch.dtype
    """Number format of matrix products while training the models."""
    saes: SaeRecipe
    """The recipe of every layer's SAE."""


EMBEDDED = Recipe(
    training_patients=20_000,
    tower_steps=1000,
    base_steps=2000,
    tuning_steps=0,
    tuning_lr=0.0,
    tuning_rank=0,
    tuning_share=1.0,
    gate_steps=300,
    patients=48,
    precision=torch.float32,
    saes=SaeRecipe(features=512, mean_active=24, tokens=60_000, general_tokens=0, steps=1500, batch=2048),
)
"""A small model that is trained from random weights."""

REALITY = Recipe(
    training_patients=20_000,
    tower_steps=2000,
    base_steps=0,
    tuning_steps=550,
    tuning_lr=5e-4,
    tuning_rank=32,
    tuning_share=0.4,
    gate_steps=250,
    patients=32,
    precision=torch.bfloat16,
    saes=SaeRecipe(features=4096, mean_active=64, tokens=200_000, general_tokens=200_000, steps=2000, batch=2048),
)
"""A real language model, which learns to see."""

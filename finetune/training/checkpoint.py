"""The checkpoint of a training: everything that the next step depends on."""

from typing import NamedTuple

import torch
from torch import Tensor

from interp.storage.checkpoint import Checkpoint

NAME = "training"
"""Name of the training's state in its checkpoint."""


class TrainingState(NamedTuple):
    """A training after some of its steps: all that the next step depends on, apart from the inputs of the training."""

    weights: dict[str, Tensor]
    """Parameter name -> its value."""
    moments: dict[str, Tensor]
    """PARAMETER.STATE -> a state that the optimizer keeps of that parameter."""
    random: Tensor
    """uint8 [processes, bytes]: the state of every process's random number generators."""
    sizes: Tensor
    """int64 [processes]: number of questions that each process passes through the model at once."""
    history: Tensor
    """float64 [steps, fields]: the records of the finished steps (`finetune.lora.history.StepRecord`)."""
    scores: Tensor
    """float64 [scores, fields]: the scores of the finished epochs (`finetune.lora.history.EpochScores`)."""


def write_state(checkpoint: Checkpoint, state: TrainingState, seconds: float) -> None:
    """Write the state of a training that has taken `seconds`. Raises InputError if the disk is full."""
    tensors = {"random": state.random, "sizes": state.sizes, "history": state.history, "scores": state.scores}
    tensors |= {f"weights.{name}": tensor for name, tensor in state.weights.items()}
    tensors |= {f"moments.{name}": tensor for name, tensor in state.moments.items()}
    checkpoint.write(NAME, tensors | {"seconds": torch.tensor(seconds, dtype=torch.float64)})


def read_state(checkpoint: Checkpoint) -> tuple[TrainingState, float] | None:
    """The state of a training and the seconds that it has taken, None if there is none.

    Raises InputError as `Checkpoint.read` does.
    """
    tensors = checkpoint.read(NAME)
    if tensors is None:
        return None
    parts: dict[str, dict[str, Tensor]] = {"weights": {}, "moments": {}}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind in parts:
            parts[kind][rest] = tensor
    # Checkpoints of earlier versions have no scores.
    scores = tensors.get("scores", torch.zeros(0))
    state = TrainingState(
        **parts, random=tensors["random"], sizes=tensors["sizes"], history=tensors["history"], scores=scores
    )
    return state, float(tensors["seconds"])

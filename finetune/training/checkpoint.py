"""The checkpoint of a training, in its working folder (`interp.storage.working_folder`)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from interp.storage.working_folder import read_tensors, write_tensors

TRAINING = "training.safetensors"
"""The checkpoint of a training, in its working folder."""


class State(NamedTuple):
    """A training behind some of its steps: all that the next step depends on, beside what it was begun with."""

    weights: dict[str, Tensor]
    """Parameter name -> its value."""
    moments: dict[str, Tensor]
    """Parameter name, dot, name of a state of the optimizer -> that state."""
    random: Tensor
    """uint8 [processes, bytes]: the state of every process's random numbers."""
    sizes: Tensor
    """int64 [processes]: questions that each passes together."""
    history: Tensor
    """float64 [steps, fields]: the records of the steps done."""


def write_state(work: Path, state: State, inputs: Mapping[str, Any], seconds: float) -> None:
    """Write the checkpoint of a training into its working folder."""
    tensors = {"random": state.random, "sizes": state.sizes, "history": state.history}
    tensors |= {f"weights.{name}": tensor for name, tensor in state.weights.items()}
    tensors |= {f"moments.{name}": tensor for name, tensor in state.moments.items()}
    write_tensors(work / TRAINING, tensors, inputs, seconds)


def read_state(work: Path, inputs: Mapping[str, Any]) -> tuple[State, float] | None:
    """The checkpoint in a working folder and the seconds of the training so far, None if there is none yet.

    Raises InputError as `read_tensors`.
    """
    path = work / TRAINING
    if not path.is_file():
        return None
    tensors, seconds = read_tensors(path, inputs)
    parts: dict[str, dict[str, Tensor]] = {"weights": {}, "moments": {}}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind in parts:
            parts[kind][rest] = tensor
    return State(parts["weights"], parts["moments"], *(tensors[k] for k in ("random", "sizes", "history"))), seconds

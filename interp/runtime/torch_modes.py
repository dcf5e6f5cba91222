"""Torch's modes, of which every thread has its own."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def in_these_modes(function: Callable[P, R]) -> Callable[P, R]:
    """`function` for another thread, with gradients, inference mode and a CPU's autocast as they are here and now."""
    recorded, inferring = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    dtype, cast = torch.get_autocast_dtype("cpu"), torch.is_autocast_enabled("cpu")

    def call(*given: P.args, **named: P.kwargs) -> R:
        # Inference mode first, because it sets whether gradients are recorded, too.
        with torch.inference_mode(inferring), torch.set_grad_enabled(recorded), torch.autocast("cpu", dtype, cast):
            return function(*given, **named)

    return call

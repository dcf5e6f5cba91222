"""The trained layers compiled, while a long training runs on a GPU.

One by one, their operations take the CPU longer to launch than they take on the GPU.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

PAYS_FROM = 1000
"""Optimizer steps from which on compiling pays: it takes about a minute once, and saves some 40 ms a step (MedGemma 4B
on an H100)."""
GRAPHS = 32
"""Graphs that one layer's code may be compiled into, the rest runs uncompiled. Six are expected: layers with an update,
without one, and the lowest, whose input takes no gradient; each for batches of one row and of more."""


def pays(device: torch.device, steps: int) -> bool:
    """Whether compiling saves more time in so many optimizer steps than it takes."""
    return device.type == "cuda" and steps >= PAYS_FROM


@contextmanager
def compiled(layers: Sequence[torch.nn.Module], backend: str | Callable[..., object] = "inductor") -> Iterator[None]:
    """While open, the forward of every layer is compiled, for batches of any shape, when it is first called.

    Layers of one kind share their code, whatever hooks they have. What fails to compile raises where it is called; then
    `drop` lets the layers run on as they are.
    """
    # An update is smaller than the buckets in which DDP would have the gradients, and be given no graph in parts.
    with torch._dynamo.config.patch(recompile_limit=GRAPHS, optimize_ddp=False):
        for layer in layers:
            layer.forward = torch.compile(layer.forward, dynamic=True, backend=backend)
        try:
            yield
        finally:
            drop(layers)


def drop(layers: Sequence[torch.nn.Module]) -> bool:
    """Let layers run uncompiled again; whether any of them was compiled."""
    found = [layer for layer in layers if "forward" in vars(layer)]
    for layer in found:
        del layer.forward
    return bool(found)

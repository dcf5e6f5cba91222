"""On a GPU, a pass over some questions as one CUDA graph: recorded once for each shape, then launched as a whole.

A pass is some thousands of small kernels, and launched one by one they take Python several times as long as the GPU.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from finetune.training.forward import TrainingBatch
from interp.runtime.async_copies import to_device_async

Pass = Callable[[TrainingBatch, Tensor], Tensor]
"""Questions and a divisor, a scalar -> sums; adds the gradient of their losses by the divisor to the parameters'."""
SHAPES = 64
"""Shapes that are recorded; passes of more are launched kernel by kernel. All share their memory."""


class RecordedPass(NamedTuple):
    """A pass of one shape, and where it reads and writes."""

    graph: torch.cuda.CUDAGraph
    """All of its kernels."""
    laid: TrainingBatch
    """What it reads."""
    divisor: Tensor
    """The divisor that it reads."""
    sums: Tensor
    """What it leaves, until any other is run."""


class GraphedPasses:
    """A pass that is recorded when its shape comes the second time: the first time warms its kernels up.

    The parameters' gradients must stay where they are, so that they may be set to zero but not to None. Dropout goes on
    drawing from the GPU's generator as it does outside.
    """

    def __init__(self, run: Pass) -> None:
        self._run = run
        self._met: set[tuple[torch.Size, ...]] = set()
        self._recorded: dict[tuple[torch.Size, ...], RecordedPass] = {}
        self._memory = torch.cuda.graph_pool_handle()

    def __call__(self, laid: TrainingBatch, divisor: Tensor) -> Tensor:
        """As the pass itself."""
        if laid.grounded is not None or len(laid.parts) > 1:
            return self._run(laid, divisor)
        laid = _full(laid)
        shape = tuple(tensor.shape for tensor in _tensors(laid))
        if shape not in self._recorded and (shape not in self._met or len(self._recorded) >= SHAPES):
            self._met.add(shape)
            return self._run(laid, divisor)
        if shape not in self._recorded:
            self._recorded[shape] = self._record(laid)
        recorded = self._recorded[shape]
        for own, given in zip(_tensors(recorded.laid), _tensors(laid), strict=True):
            own.copy_(given)
        recorded.divisor.copy_(divisor)
        recorded.graph.replay()
        return recorded.sums.clone()

    def forget(self) -> None:
        """Drop what was recorded, and with it the memory that it takes."""
        self._recorded.clear()

    def _record(self, laid: TrainingBatch) -> RecordedPass:
        batch, hidden = laid.parts[0]
        names = ("input_ids", "position_ids", "segment", "final")
        own = batch._replace(**{name: getattr(batch, name).clone() for name in names})
        laid = laid._replace(
            parts=[(own, hidden.clone())],
            place=laid.place.clone(),
            targets=laid.targets.clone(),
            paired=laid.paired.clone(),
        )
        divisor = torch.ones((), device=hidden.device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._memory, capture_error_mode="thread_local"):
            sums = self._run(laid, divisor)
        return RecordedPass(graph, laid, divisor, sums)


def _tensors(laid: TrainingBatch) -> list[Tensor]:
    """All that a pass reads of questions in one batch and without a grounding term."""
    batch, hidden = laid.parts[0]
    return [
        batch.input_ids, batch.position_ids, batch.segment, batch.final,
        hidden, laid.place, laid.targets, laid.paired,
    ]  # fmt: skip


def _full(laid: TrainingBatch) -> TrainingBatch:
    """As many rows as questions, so that questions that share an image make no shape of their own.

    What is added is the first row again; no prompt ends in it, so nothing of it is read.
    """
    batch, hidden = laid.parts[0]
    missing = len(laid.targets) - len(hidden)
    if missing <= 0:
        return laid
    index = to_device_async(torch.tensor([*range(len(hidden)), *[0] * missing]), hidden.device)
    return laid._replace(parts=[(batch.take(index), hidden[index])])

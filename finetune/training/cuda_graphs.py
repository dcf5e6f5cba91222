"""On a GPU, a pass over a batch as one CUDA graph: recorded once for each shape, then launched as a whole.

A pass consists of thousands of small kernels. Launching them one by one takes Python several times as long as the GPU
takes to run them.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from finetune.training.forward import TrainingBatch

Pass = Callable[[TrainingBatch, Tensor], Tensor]
"""A batch and a scalar divisor -> sums of the losses; adds the gradient of losses / divisor to the parameters."""
Shape = tuple[int | torch.Size, ...]
"""Most prompts of a row, and the shapes of all tensors of a batch."""
SHAPES = 64
"""Number of shapes that are recorded; passes of further shapes run kernel by kernel. All graphs share their memory."""


class RecordedPass(NamedTuple):
    """The recorded pass of one shape, and the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    """The kernels of the pass."""
    questions: TrainingBatch
    """The batch that it reads."""
    divisor: Tensor
    """The divisor that it reads."""
    sums: Tensor
    """The sums that it writes, valid until another pass runs."""


class GraphedPasses:
    """A pass that is recorded when its shape first occurs.

    The gradients of the parameters must keep their addresses, so they may be set to zero but not to None. Dropout draws
    from the GPU's generator as it does without graphs.
    """

    def __init__(self, run: Pass) -> None:
        self.run = run
        """The pass itself, kernel by kernel."""
        self._recorded: dict[Shape, RecordedPass] = {}
        self._memory = torch.cuda.graph_pool_handle()
        # One for all, because memory that was used by one stream is not given to another.
        self._stream = torch.cuda.Stream()

    def __call__(self, questions: TrainingBatch, divisor: Tensor) -> Tensor:
        """Run the pass on a batch."""
        if questions.grounded is not None or len(questions.parts) > 1:
            return self.run(questions, divisor)
        shape: Shape = (questions.parts[0][0].most, *(tensor.shape for tensor in _tensors(questions)))
        if shape not in self._recorded:
            if len(self._recorded) >= SHAPES:
                return self.run(questions, divisor)
            self._recorded[shape] = self._record(questions)
        recorded = self._recorded[shape]
        for own, given in zip(_tensors(recorded.questions), _tensors(questions), strict=True):
            own.copy_(given)
        recorded.divisor.copy_(divisor)
        recorded.graph.replay()
        return recorded.sums.clone()

    def forget(self) -> None:
        """Drop all recorded passes and free their memory."""
        self._recorded.clear()
        # torch frees the pool with its last graph, and refuses to record into it again.
        self._memory = torch.cuda.graph_pool_handle()

    def _record(self, questions: TrainingBatch) -> RecordedPass:
        batch, hidden = questions.parts[0]
        names = ("input_ids", "position_ids", "segment", "final")
        own = batch._replace(**{name: getattr(batch, name).clone() for name in names})
        questions = questions._replace(
            parts=[(own, hidden.clone())],
            place=questions.place.clone(),
            targets=questions.targets.clone(),
            paired=questions.paired.clone(),
            closed=questions.closed.clone(),
        )
        divisor = torch.ones((), device=hidden.device)
        graph = torch.cuda.CUDAGraph()
        # As `torch.cuda.graph` does, which also frees pinned memory: that takes long, and longer to get it back.
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        with torch.cuda.stream(self._stream):
            # Kernels that have not run before are loaded meanwhile, which other modes of errors forbid.
            graph.capture_begin(pool=self._memory, capture_error_mode="relaxed")
            try:
                sums = self.run(questions, divisor)
            finally:
                graph.capture_end()
        return RecordedPass(graph, questions, divisor, sums)


def _tensors(questions: TrainingBatch) -> list[Tensor]:
    """All tensors that a pass reads, for questions in one packed batch and without a grounding term."""
    batch, hidden = questions.parts[0]
    return [
        batch.input_ids, batch.position_ids, batch.segment, batch.final,
        hidden, questions.place, questions.targets, questions.paired, questions.closed,
    ]  # fmt: skip

"""The checkpoint of prompts that are measured batch by batch: written in parts while the measuring goes on."""

import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from interp.storage.checkpoint import Checkpoint

CHECKPOINT_SECONDS = 60.0
"""Most seconds of measuring that a kill loses."""
LONG = CHECKPOINT_SECONDS / 20
"""Seconds of writing above which parts are written less often, so that writing takes a twentieth of the time."""
PART_BYTES = 2**27
"""Approximate size of a part, which is copied in memory while it is written."""


class PromptParts:
    """The prompts that one process has measured. `values` returns what is written of some of them."""

    def __init__(
        self, checkpoint: Checkpoint, rank: int, bytes_a_prompt: int, values: Callable[[Tensor], dict[str, Tensor]]
    ) -> None:
        self._checkpoint, self._rank, self._values = checkpoint, rank, values
        self._prompts = max(1, PART_BYTES // bytes_a_prompt)
        self._count = 0
        self._waiting: list[Tensor] = []
        self._started = self._written = time.monotonic()
        self._pause = CHECKPOINT_SECONDS

    def read(self) -> Iterator[dict[str, Tensor]]:
        """The parts that an earlier run wrote. Raises InputError as `Checkpoint.read` does."""
        while (part := self._checkpoint.read(self._name())) is not None:
            self._count += 1
            yield part

    def add(self, prompts: Tensor) -> None:
        """Note the prompts of a batch as measured, and write all that wait if that is due."""
        if not self._checkpoint:
            return
        self._waiting.append(prompts)
        if time.monotonic() - self._written >= self._pause:
            self._write()

    def finish(self) -> None:
        """Write all that wait, if losing the measurement would cost more than a checkpoint may cost."""
        if self._waiting and time.monotonic() - self._started >= CHECKPOINT_SECONDS:
            self._write()

    def _write(self) -> None:
        started = time.monotonic()
        # Parts are made of whole batches, because the numbers of another batch would differ in their last digits.
        part: list[Tensor] = []
        for batch in self._waiting:
            part.append(batch)
            if sum(map(len, part)) >= self._prompts:
                self._write_part(part)
                part = []
        if part:
            self._write_part(part)
        self._waiting = []
        self._written = time.monotonic()
        self._pause = CHECKPOINT_SECONDS * max(1.0, (self._written - started) / LONG)

    def _write_part(self, batches: list[Tensor]) -> None:
        prompts = torch.cat(batches)
        self._checkpoint.write(self._name(), {"prompts": prompts} | self._values(prompts))
        self._count += 1

    def _name(self) -> str:
        return f"rounds-{self._rank:03d}-{self._count:06d}"

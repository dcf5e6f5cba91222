"""What a search has done so far, on disk, so that one that was killed goes on behind it; numbers alone.

Measured prompts are written in parts, once a checkpoint is due; screened layers and causal sweeps when they are done.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from interp.storage.checksums import named_digest
from interp.storage.working_folder import read_tensors, write_tensors

CHECKPOINT_SECONDS = 60.0
"""Of measuring, at most, that a kill loses."""
LONG = CHECKPOINT_SECONDS / 20
"""Seconds of writing beyond which parts are further apart: it takes a twentieth of the time."""
PART_BYTES = 2**27
"""Size of a part, about: so much is copied in memory while it is written."""
HASHED_ROWS = 64
"""Of a tensor in a piece, for several threads to hash."""


class Checkpoint(NamedTuple):
    """A folder for what is done, and what that is of use for."""

    folder: Path | None
    """Where it is; None to keep nothing."""
    inputs: Mapping[str, Any]
    """What must be the same for it to be of use."""

    def read(self, name: str) -> dict[str, Tensor] | None:
        """What is kept under a name, None if nothing is. Raises InputError as
        `interp.storage.working_folder.read_tensors`."""
        path = self.folder and self.folder / f"{name}.safetensors"
        return read_tensors(path, self.inputs)[0] if path and path.is_file() else None

    def write(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors under a name. Raises InputError if there is no room."""
        if self.folder:
            write_tensors(self.folder / f"{name}.safetensors", tensors, self.inputs)

    def once(self, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """What is kept under a name, or what `make` gives, which is then kept."""
        found = self.read(name)
        if found is None:
            found = make()
            self.write(name, found)
        return found

    def __bool__(self) -> bool:
        return self.folder is not None


NO_CHECKPOINT = Checkpoint(None, {})
"""Of a search that is not to be gone on with."""


class Parts:
    """What one process has of the measured batches, written while it goes on.

    `values` gives what is to be kept of some prompts, `bytes_a_prompt` of each.
    """

    def __init__(
        self, checkpoint: Checkpoint, rank: int, bytes_a_prompt: int, values: Callable[[Tensor], dict[str, Tensor]]
    ) -> None:
        self._checkpoint, self._rank, self._values = checkpoint, rank, values
        self._prompts = max(1, PART_BYTES // bytes_a_prompt)
        self._count = 0
        self._waiting: list[Tensor] = []
        self._begun = self._written = time.monotonic()
        self._pause = CHECKPOINT_SECONDS

    def read(self) -> Iterator[dict[str, Tensor]]:
        """The parts that are there. Raises InputError as `Checkpoint.read`."""
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
        """Write what waits, if there is more to lose by then than a checkpoint may cost."""
        if self._waiting and time.monotonic() - self._begun >= CHECKPOINT_SECONDS:
            self._write()

    def _write(self) -> None:
        begun = time.monotonic()
        # Whole batches: another batch's numbers would differ in their last digits.
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
        self._pause = CHECKPOINT_SECONDS * max(1.0, (self._written - begun) / LONG)

    def _write_part(self, batches: list[Tensor]) -> None:
        prompts = torch.cat(batches)
        self._checkpoint.write(self._name(), {"prompts": prompts} | self._values(prompts))
        self._count += 1

    def _name(self) -> str:
        return f"rounds-{self._rank:03d}-{self._count:06d}"


def name_of(kind: str, **given: Tensor) -> str:
    """What a stage is kept under: a hash of all that goes into it, so that no other one is taken for it.

    What was measured before it may be lost, and on a GPU it may come out again with other last digits.
    """
    rows = {f"{name} {k}": part for name, tensor in given.items() for k, part in enumerate(tensor.split(HASHED_ROWS))}
    return f"{kind}-{named_digest(rows, 16)}"

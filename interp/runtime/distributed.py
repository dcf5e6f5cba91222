"""One run in several processes, as `accelerate launch` starts them: who does what, and how they put it together.

Every process takes the same steps and does its part of each. What all need goes from each to all where they meet, as
tensors, JSON or Arrow. In one process there is nobody to meet, and everything is handed back as it came.
"""

import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from interp.runtime.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from torch import Tensor

T = TypeVar("T")
TIMEOUT = timedelta(days=7)
"""How long a process waits for others that are alive: parts differ in length. The launcher sees to those that died."""
LAUNCHER_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
"""What a launcher tells every process of its place."""


def process_count() -> int:
    """Number of processes of this run."""
    return int(os.environ.get("WORLD_SIZE", 1))


def local_process_count() -> int:
    """The same of this machine, which its processes share."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if process_count() > 1 else 1


def is_main() -> bool:
    """Whether this is the process that writes files and shows progress."""
    return process_count() == 1 or int(os.environ.get("RANK", 0)) == 0


class Team(NamedTuple):
    """The processes of a run, as one of them sees them. All must call the same methods in the same order."""

    rank: int
    """Of this process, from 0."""
    size: int
    """Number of processes."""
    device: "torch.device | None"
    """Where tensors are while they are exchanged; None for one process."""

    def share(self, items: Sequence[T], rank: int | None = None) -> list[T]:
        """Every `size`-th of the items, for this process or another: items of like cost together are dealt evenly."""
        return list(items[self.rank if rank is None else rank :: self.size])

    def block(self, items: Sequence[T], rank: int | None = None) -> list[T]:
        """Neighbouring items, for this process or another; the blocks of all, one behind the other, are the items."""
        at = self.rank if rank is None else rank
        first, last = (place * len(items) // self.size for place in (at, at + 1))
        return list(items[first:last])

    def barrier(self) -> None:
        """Wait for all."""
        self.gather_values(None)

    def shut_down(self) -> None:
        """Wait for all, and give back what they met through."""
        if self.size > 1:
            self.barrier()
            shut_down()

    def all_reduce_sum(self, part: "Tensor") -> "Tensor":
        """The sum over all processes of tensors of one shape; exact where all but one have left zero."""
        if self.size == 1:
            return part
        import torch

        with _readable_errors():
            there = part.to(self.device, copy=True)
            torch.distributed.all_reduce(there)
            return there.to(part.device)

    def gather_bytes(self, own: bytes) -> list[bytes]:
        """What each process has, by rank."""
        if self.size == 1:
            return [own]
        import torch

        sizes = torch.zeros(self.size, dtype=torch.long)
        sizes[self.rank] = len(own)
        lengths = self.all_reduce_sum(sizes).tolist()
        mine = torch.zeros(max(lengths), dtype=torch.uint8)
        mine[: len(own)] = torch.frombuffer(bytearray(own), dtype=torch.uint8) if own else mine[:0]
        with _readable_errors():
            there = [torch.empty_like(mine, device=self.device) for _ in lengths]
            torch.distributed.all_gather(there, mine.to(self.device))
        return [part[:n].cpu().numpy().tobytes() for part, n in zip(there, lengths, strict=True)]

    def gather_values(self, own: Any) -> list[Any]:
        """What each process has, by rank, of what JSON can say: numbers keep every bit, tuples come back as lists."""
        return [own] if self.size == 1 else [json.loads(part) for part in self.gather_bytes(json.dumps(own).encode())]

    def gather_tensors(self, own: "dict[str, Tensor]") -> "list[dict[str, Tensor]]":
        """Named tensors of main memory that each process has, by rank."""
        if self.size == 1:
            return [own]
        from safetensors.torch import load, save

        return [
            load(part) for part in self.gather_bytes(save({name: tensor.contiguous() for name, tensor in own.items()}))
        ]

    def gather_frames(self, own: "pd.DataFrame") -> "list[pd.DataFrame]":
        """A table that each process has, by rank; its index is not kept."""
        if self.size == 1:
            return [own]
        import pandas as pd

        buffer = io.BytesIO()
        own.reset_index(drop=True).to_feather(buffer)
        return [pd.read_feather(io.BytesIO(part)) for part in self.gather_bytes(buffer.getvalue())]

    def gather_to(self, owner: int, own: "Tensor", lengths: Sequence[int]) -> "list[Tensor]":
        """The tensors [`lengths`[rank], ...] of all processes, by rank, for the process `owner`; none for the others.

        They are on the device where the processes meet, and come to it.
        """
        if self.size == 1:
            return [own]
        import torch

        # As bytes, since not every backend knows every dtype.
        sent = own.contiguous().view(torch.uint8)
        padded = sent.new_zeros(max(lengths), *sent.shape[1:])
        padded[: len(own)] = sent
        there = [torch.empty_like(padded) for _ in lengths] if owner == self.rank else None
        # There may be more processes than layers to send.
        if padded.numel():
            with _readable_errors():
                torch.distributed.gather(padded, there, owner)
        return [part[:n].view(own.dtype) for part, n in zip(there or (), lengths, strict=there is not None)]


ALONE = Team(0, 1, None)
"""Of one process."""


def team_on(device: "torch.device | str") -> Team:
    """The processes of this run, whose models are on `device`; the first call makes them known to each other.

    Each has a GPU of its own and they meet through nccl, or they meet in main memory through gloo. Raises InputError if
    there are fewer GPUs than processes on this machine, or if `device` is the GPU of another process.
    """
    if process_count() == 1:
        return ALONE
    import torch

    asked = torch.device(device)
    if asked.type == "cuda":
        asked = claim_gpu(asked)
    if not torch.distributed.is_initialized():
        with _readable_errors():
            torch.distributed.init_process_group("nccl" if asked.type == "cuda" else "gloo", timeout=TIMEOUT)
    return Team(torch.distributed.get_rank(), torch.distributed.get_world_size(), asked)


def shut_down() -> None:
    """Give back what the processes of this run met through, if they have met; none of them may wait for another."""
    # A command that did not load torch has met nobody.
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def claim_gpu(asked: "torch.device") -> "torch.device":
    """The GPU of this process, which is the current one from here on. Raises InputError as `team_on`."""
    import torch

    if torch.cuda.device_count() < local_process_count():
        raise InputError(
            f"{local_process_count()} processes on this machine, but {torch.cuda.device_count()} GPUs. Give --num_processes as "
            "many as there are GPUs, or --device cpu."
        )
    own = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    if asked.index not in (None, own.index):
        raise InputError(f"--device {asked}: every process takes a GPU of its own. Leave --device out.")
    torch.cuda.set_device(own)
    return own


def require_single_process(what: str) -> None:
    """Raise InputError if there are several processes, for `what` is done by one."""
    if process_count() > 1:
        raise InputError(f"{what} runs in one process. Start it without `accelerate launch`.")


@contextmanager
def single_process_environment() -> Iterator[None]:
    """While open, libraries that look for the launcher's variables find this process to be the only one."""
    told = {name: os.environ.pop(name) for name in LAUNCHER_VARIABLES if name in os.environ}
    try:
        yield
    finally:
        os.environ |= told


def is_first_to_report(event: str) -> bool:
    """Whether no other process of this run has come here with `event`; also if none of them can be asked."""
    if process_count() == 1:
        return True
    from torch.distributed import TCPStore

    try:
        store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), timeout=timedelta(seconds=5))
        return store.add(f"gatescope/{event}", 1) == 1
    except (KeyError, RuntimeError):
        return True


@contextmanager
def _readable_errors() -> Iterator[None]:
    """Say in plain words that another process is gone."""
    try:
        yield
    except RuntimeError as error:
        raise InputError(
            "Another process of this run has ended, so this one can not go on either "
            f"({str(error).splitlines()[0][:200]}). No result was written. See what was said of it, and start again, "
            "with --resume if that is said too."
        ) from None

"""One run in several processes, which `accelerate launch` starts: how they divide the work and exchange results.

Every process runs the same code on its own share of the items. Collective operations of `Team` exchange tensors, JSON
values and tables. In a single process they return their argument unchanged.
"""

import atexit
import io
import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from interp.runtime.errors import InputError, first_line

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from torch import Tensor

T = TypeVar("T")
TIMEOUT = timedelta(days=7)
"""How long a process waits for the others, whose shares may take longer. The launcher handles processes that died."""
LAUNCHER_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
"""Environment variables in which a launcher tells every process its place."""
MEETING, LOCAL_MEETING = timedelta(seconds=120), timedelta(seconds=30)
"""How long processes that no launcher started wait for one another at the start: on several machines, and on one."""


def check_launcher_variables() -> None:
    """Raise InputError unless the launcher's variables are numbers that fit together; empty ones are removed.

    Libraries read them too, and would take an empty one for a mistake of their own.
    """
    for name in LAUNCHER_VARIABLES:
        if not os.environ.get(name, "unset").strip():
            del os.environ[name]
    size, rank = process_count(), _rank()
    for name, least in (("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1)):
        _launcher_number(name, least, least)
    if size > 1 and "RANK" not in os.environ:
        raise InputError(f"WORLD_SIZE is {size}, but RANK is not set. {_UNSET}")
    if rank >= size > 1:
        raise InputError(f"RANK is {rank}, expected less than WORLD_SIZE, which is {size}. {_UNSET}")


_UNSET = "Start several processes with `accelerate launch`, or unset WORLD_SIZE and RANK for a single one."


def _launcher_number(name: str, default: int, least: int) -> int:
    """The number in a launcher's variable, `default` if it is unset or empty. Raises InputError for anything else."""
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    if not text.isdecimal() or int(text) < least:
        raise InputError(f"The environment variable {name} is {text!r}, expected a number from {least}. {_UNSET}")
    return int(text)


def process_count() -> int:
    """Number of processes in this run. Raises InputError if the launcher's variable is not a number."""
    return _launcher_number("WORLD_SIZE", 1, least=1)


def local_process_count() -> int:
    """Number of processes of this run on this machine."""
    return _launcher_number("LOCAL_WORLD_SIZE", 1, least=1) if process_count() > 1 else 1


def local_rank() -> int:
    """Rank of this process among those of this run on this machine, from 0."""
    return _launcher_number("LOCAL_RANK", 0, least=0) if process_count() > 1 else 0


def is_main() -> bool:
    """Whether this is the process that writes files and shows progress."""
    return process_count() == 1 or _rank() == 0


class Team(NamedTuple):
    """The processes of a run, as seen by one of them. All must call the same methods in the same order."""

    rank: int
    """Rank of this process, from 0."""
    size: int
    """Number of processes."""
    device: "torch.device | None"
    """Device on which tensors are exchanged; None for a single process."""

    def share(self, items: Sequence[T], rank: int | None = None) -> list[T]:
        """Every `size`-th item, for this process or the given rank.

        Neighbouring items of similar cost are thereby divided evenly.
        """
        return list(items[self.rank if rank is None else rank :: self.size])

    def block(self, items: Sequence[T], rank: int | None = None) -> list[T]:
        """A contiguous block of the items, for this process or the given rank; all blocks in rank order are `items`."""
        at = self.rank if rank is None else rank
        first, last = (place * len(items) // self.size for place in (at, at + 1))
        return list(items[first:last])

    def barrier(self) -> None:
        """Wait until every process has come here."""
        self.gather_values(None)

    def shut_down(self) -> None:
        """Wait until every process has come here, then leave the process group."""
        if self.size > 1:
            self.barrier()
            shut_down()

    def all_reduce_sum(self, part: "Tensor") -> "Tensor":
        """The sum over all processes of tensors of one shape; exact where at most one process holds a nonzero value."""
        if self.size == 1:
            return part
        import torch

        with _readable_errors():
            there = part.to(self.device, copy=True)
            torch.distributed.all_reduce(there)
            return there.to(part.device)

    def gather_bytes(self, own: bytes) -> list[bytes]:
        """The bytes of each process, by rank."""
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
        """The JSON-serializable value of each process, by rank. Numbers keep every bit; tuples come back as lists."""
        return [own] if self.size == 1 else [json.loads(part) for part in self.gather_bytes(json.dumps(own).encode())]

    def gather_tensors(self, own: "dict[str, Tensor]") -> "list[dict[str, Tensor]]":
        """The named tensors of each process, in main memory, by rank."""
        if self.size == 1:
            return [own]
        from safetensors.torch import load, save

        return [
            load(part) for part in self.gather_bytes(save({name: tensor.contiguous() for name, tensor in own.items()}))
        ]

    def gather_frames(self, own: "pd.DataFrame") -> "list[pd.DataFrame]":
        """The table of each process, by rank; the index is dropped."""
        if self.size == 1:
            return [own]
        import pandas as pd

        buffer = io.BytesIO()
        own.reset_index(drop=True).to_feather(buffer)
        return [pd.read_feather(io.BytesIO(part)) for part in self.gather_bytes(buffer.getvalue())]

    def gather_to(self, owner: int, own: "Tensor", lengths: Sequence[int]) -> "list[Tensor]":
        """Send the tensors of all processes to the process `owner`, which gets them by rank; the others get none.

        The tensor of each process is [`lengths`[rank], ...], on `device` before and after.
        """
        if self.size == 1:
            return [own]
        import torch

        # As bytes, since not every backend supports every dtype.
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
"""The team of a single process."""


def team_on(device: "torch.device | str") -> Team:
    """The processes of this run, whose models are on `device`. The first call initializes the process group.

    Processes on GPUs, one each, communicate through nccl, and those on CPUs through gloo. The end of a process destroys
    its group of gloo.

    Raises InputError if this machine has fewer GPUs than processes, if `device` is the GPU of another process, or as
    `meet` does.
    """
    if process_count() == 1:
        return ALONE
    import torch

    asked = torch.device(device)
    if asked.type == "cuda":
        asked = claim_gpu(asked)
    if not torch.distributed.is_initialized():
        met: dict[str, Any] = {}
        if (store := meet()) is not None:
            met = {"store": store, "rank": _rank(), "world_size": process_count()}
        # The functions of this module take the current process group as a default argument when they are imported. If
        # transformers imported them later, they would keep the new group and its threads beyond `shut_down`.
        import torch.distributed.nn.functional

        backend = "nccl" if asked.type == "cuda" else "gloo"
        with _readable_errors():
            torch.distributed.init_process_group(backend, timeout=TIMEOUT, **met)
        if backend == "gloo":
            # Its threads need the interpreter to release tensors. At the end of the process Python stops a thread that
            # asks for it, which C++ takes for an error and aborts. To leave nccl's might wait for a failed process.
            atexit.register(shut_down)
    return Team(torch.distributed.get_rank(), torch.distributed.get_world_size(), asked)


@cache
def meet() -> "torch.distributed.Store | None":
    """Wait for the other processes of a run that no launcher started, for MEETING at most; call it before long work.

    Returns the store in which they have met. Does nothing and returns None in a single process, and under `accelerate
    launch` or `torchrun`, which bring the processes together and stop them all if one fails. Raises InputError if the
    others do not come: some clusters set WORLD_SIZE for a single process too.
    """
    if process_count() == 1 or "TORCHELASTIC_RUN_ID" in os.environ:
        return None
    check_launcher_variables()
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name, "").strip()]
    if missing:
        raise InputError(f"WORLD_SIZE is {process_count()}, but {missing[0]} is not set. {_UNSET}")
    import torch

    address, port = os.environ["MASTER_ADDR"], _launcher_number("MASTER_PORT", 0, least=1)
    patience = LOCAL_MEETING if address in ("localhost", "127.0.0.1", "::1") else MEETING
    try:
        if _rank() > 0 and not _reachable(address, port, patience):
            raise RuntimeError("nobody listens there")
        store = torch.distributed.TCPStore(address, port, process_count(), _rank() == 0, patience)
        # A store that is already there, of another run, does not wait.
        store.set(f"gatescope/met/{_rank()}", "")
        store.wait([f"gatescope/met/{rank}" for rank in range(process_count())], patience)
    except RuntimeError as error:
        raise InputError(
            f"WORLD_SIZE is {process_count()}, but the other processes did not come to {address}:{port} within "
            f"{patience.total_seconds():.0f} seconds ({first_line(error)[:200]}). {_UNSET}"
        ) from None
    store.set_timeout(TIMEOUT)
    return store


def _reachable(address: str, port: int, patience: timedelta) -> bool:
    """Whether something listens at an address, or begins to within `patience`."""
    until = time.monotonic() + patience.total_seconds()
    while True:
        try:
            socket.create_connection((address, port), timeout=5).close()
            return True
        except OSError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.5)


def _rank() -> int:
    return _launcher_number("RANK", 0, least=0)


def shut_down() -> None:
    """Destroy the process group if there is one; no process may still be waiting for another."""
    # A command that did not import torch has no process group.
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def claim_gpu(asked: "torch.device") -> "torch.device":
    """The GPU of this process, made the current one. Raises InputError as `team_on` does."""
    import torch

    if torch.cuda.device_count() < local_process_count():
        raise InputError(
            f"{local_process_count()} processes on this machine, but {torch.cuda.device_count()} GPUs. Give "
            "--num_processes the number of GPUs, or use --device cpu."
        )
    own = torch.device("cuda", local_rank())
    if asked.index not in (None, own.index):
        raise InputError(f"--device {asked}: every process uses its own GPU. Leave --device out.")
    torch.cuda.set_device(own)
    return own


def require_single_process(what: str) -> None:
    """Raise InputError if the run has several processes, because `what` supports only one."""
    if process_count() > 1:
        raise InputError(
            f"{what} runs in a single process. Start it without `accelerate launch`, and with WORLD_SIZE unset."
        )


@contextmanager
def single_process_environment() -> Iterator[None]:
    """While open, hide the launcher's variables, so that libraries take this process for the only one."""
    hidden = {name: os.environ.pop(name) for name in LAUNCHER_VARIABLES if name in os.environ}
    try:
        yield
    finally:
        os.environ |= hidden


def is_first_to_report() -> bool:
    """Whether this is the first process of the run that calls this function.

    A mistake of the user may stop all processes or a single one that is not the main process, and the others fail when
    that one is gone; whoever comes first knows the cause. Also true if the other processes cannot be asked.
    """
    try:
        if process_count() == 1:
            return True
        from torch.distributed import TCPStore

        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        if not _reachable(address, port, timedelta(0)):
            return True
        store = TCPStore(address, port, timeout=timedelta(seconds=5))
        return store.add("gatescope/reported", 1) == 1
    except (KeyError, RuntimeError, ValueError):
        return True


@contextmanager
def _readable_errors() -> Iterator[None]:
    """Turn an error of a collective operation, which means that another process is gone, into an InputError."""
    try:
        yield
    except RuntimeError as error:
        raise InputError(
            "Another process of this run has ended, so this one cannot continue "
            f"({first_line(error)[:200]}). No result was written. Read the message of that process, mend the "
            "cause and start again, with --resume if the message says so."
        ) from None

"""Batches that a CPU computes side by side, each in a thread with a share of the cores.

The operations of a small model are so short that torch's threads, among which it divides each operation, wait for each
other for a third of the time. Threads with a batch each never do. The threads that read images for a GPU are limited
likewise.
"""

import os
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from threading import Barrier, Lock
from typing import TypeVar

import torch

from interp.runtime.prefetch import map_in
from interp.runtime.torch_modes import in_these_modes

T = TypeVar("T")
R = TypeVar("R")
_BEGINNING = Lock()
"""Held while threads begin: torch then gives a thread's share of the cores for their number."""


def map_sharing_cores(function: Callable[[T], R], items: Iterable[T], most: int) -> Generator[R, None, None]:
    """Apply `function` to every item, and yield the results in the order of the items.

    Up to `most` threads do so at the same time, and torch's threads are divided among them; with `most` 1, the caller's
    own thread does. `function` must not call this in turn. Torch's modes are as where the first result is asked for
    (`interp.runtime.torch_modes`). Errors are raised as by `interp.runtime.prefetch.map_in`.
    """
    with _BEGINNING:
        cores = torch.get_num_threads()
        threads = min(cores, most)
        pool = _threads(threads, cores) if threads > 1 else None
    if pool is None:
        yield from map(function, items)
        return
    yield from map_in(pool, in_these_modes(function), items, threads)


def threads_with_a_core(count: int) -> ThreadPoolExecutor:
    """`count` threads that last as long as the process, each with its share of torch's n threads: n // count, or one.

    Without this, each would divide every operation among all n.
    """
    with _BEGINNING:
        return _threads(count, torch.get_num_threads())


@lru_cache
def _threads(count: int, cores: int) -> ThreadPoolExecutor:
    """Threads among which torch's `cores` are divided. They stay, because each keeps memory that it has freed."""
    pool = ThreadPoolExecutor(count, initializer=partial(_take_cores, max(1, cores // count)))
    begun = Barrier(count + 1)
    try:
        for _ in range(count):
            pool.submit(begun.wait)
        begun.wait()
    except BaseException:
        # Interrupted: those that have begun would wait for ever, and the process for them.
        begun.abort()
        pool.shutdown()
        raise
    finally:
        # What a thread sets is also that of all threads to come.
        torch.set_num_threads(cores)
    return pool


def _after_fork() -> None:
    _BEGINNING.release()
    _threads.cache_clear()


def _take_cores(count: int) -> None:
    # A thread takes over the number of all others when it first asks, which must not be after this.
    torch.get_num_threads()
    torch.set_num_threads(count)


# A forked process has no threads of these pools, so it forgets the pools. The lock is held during the fork, because a
# thread that holds it in the parent does not exist in the child. Windows cannot fork.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_BEGINNING.acquire, after_in_parent=_BEGINNING.release, after_in_child=_after_fork)

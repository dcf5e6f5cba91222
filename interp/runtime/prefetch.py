"""Computes results in threads before they are asked for."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import copy_context
from typing import TYPE_CHECKING, TypeVar

from interp.runtime.machine import cores

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
R = TypeVar("R")
BESIDE_GPU = 8
"""Most threads that prepare and launch what a GPU computes."""


def host_threads(device: "torch.device") -> int:
    """Number of threads in which the host may work on parts that a device computes; the cores of a CPU are busy."""
    return min(BESIDE_GPU, cores()) if device.type == "cuda" else 1


def map_ahead(
    function: Callable[[T], R], items: Iterable[T], threads: int, max_waiting: int | None = None
) -> Generator[R, None, None]:
    """Apply `function` to every item in `threads` threads, and yield the results in the order of the items.

    At most `max_waiting` results are in progress or waiting, in addition to the one that is taken, by default one for
    each of the other threads; if there are to be none, the caller's own thread makes them. Errors are as in `map_in`.
    """
    if max_waiting is None:
        max_waiting = threads - 1
    if not max_waiting:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        yield from map_in(pool, function, items, max_waiting)


def map_in(
    pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], max_waiting: int
) -> Generator[R, None, None]:
    """Apply `function` to every item in the threads of `pool`, and yield the results in the order of the items.

    At most `max_waiting` results are in progress or waiting, in addition to the one that is taken. An error of
    `function` is raised where its result would be yielded. It cancels the calls that have not begun and waits for the
    others, as does closing the iterator.
    """
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > max_waiting:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        wait([future for future in waiting if not future.cancel()])


@contextmanager
def map_beside(
    function: Callable[[T], R], items: Iterable[T], threads: int, prepare: Callable[[], object] | None = None
) -> Iterator[Iterator[R]]:
    """Begin to apply `function` to all items in threads, and give the results in the order of the items.

    The caller does other work before it takes them. Every thread begins with `prepare`. Without threads, each result is
    computed when it is taken. Calls that have not begun when it closes are cancelled.
    """
    if not threads:
        yield map(function, items)
        return
    pool = ThreadPoolExecutor(threads, initializer=prepare)
    try:
        # In the caller's context, so that what is noted there belongs to the same measurement.
        begun = [pool.submit(copy_context().run, function, item) for item in items]
        yield (each.result() for each in begun)
    finally:
        pool.shutdown(cancel_futures=True)

"""Batches that a CPU computes side by side, each in a thread with a share of the cores.

The operations of a small model are so short that torch's threads, among which it divides each operation, wait for each
other for a third of the time. Threads with a batch each never do.
"""

from collections.abc import Callable, Generator, Iterable
from functools import partial
from typing import TypeVar

import torch

from interp.runtime.prefetch import map_ahead

T = TypeVar("T")
R = TypeVar("R")


def map_sharing_cores(function: Callable[[T], R], items: Iterable[T], most: int) -> Generator[R, None, None]:
    """Apply `function` to every item, and yield the results in the order of the items.

    Up to `most` threads do so at the same time, and torch's threads are divided among them; with `most` 1, the caller's
    own thread does. Gradients are recorded or not as where the first result is asked for. Errors are raised as by
    `interp.runtime.prefetch.map_ahead`.
    """
    cores = torch.get_num_threads()
    threads = min(cores, most)
    if threads < 2:
        yield from map(function, items)
        return
    recorded = torch.is_grad_enabled()

    def call(item: T) -> R:
        with torch.set_grad_enabled(recorded):
            return function(item)

    try:
        yield from map_ahead(call, items, threads, threads, partial(torch.set_num_threads, cores // threads))
    finally:
        # What a thread sets is also that of all threads to come.
        torch.set_num_threads(cores)

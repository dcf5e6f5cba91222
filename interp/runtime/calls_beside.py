"""Calls that one thread makes, in their order, while other work goes on."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from threading import Lock
from types import TracebackType
from typing import Self

from interp.runtime.torch_modes import in_these_modes

MAX_WAITING = 2
"""Most calls that wait or run; whoever adds another one waits too, because they hold memory."""


class CallsBeside:
    """A thread for calls that may be added from several threads, as a context that waits for all of them.

    An error of a call is raised once: by the next `add` that finds it, or when the context is left, unless the block
    itself raised an error. After it, no further call is made.
    """

    def __init__(self, max_waiting: int = MAX_WAITING) -> None:
        """At most `max_waiting` calls wait or run."""
        self._pool, self._most = ThreadPoolExecutor(1), max_waiting
        self._waiting: deque[Future[object]] = deque()
        self._adding = Lock()
        self._failed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()
        while self._waiting and error is None:
            self._waiting.popleft().result()

    def add(self, call: Callable[[], object]) -> None:
        """Make a call after the earlier ones, in the caller's modes (`interp.runtime.torch_modes`).

        Raises what an earlier call has raised.
        """
        in_its_modes = in_these_modes(call)

        def run() -> None:
            if not self._failed:
                # Set first, so that any error leaves it set.
                self._failed = True
                in_its_modes()
                self._failed = False

        with self._adding:
            # In the caller's context, so that what is noted there belongs to the same measurement.
            self._waiting.append(self._pool.submit(copy_context().run, run))
            while self._waiting and (self._waiting[0].done() or len(self._waiting) > self._most):
                self._waiting.popleft().result()

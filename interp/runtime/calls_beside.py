"""Calls that one thread makes, in their order, while other work goes on."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from threading import Lock

MAX_WAITING = 2
"""Most calls that wait or run; whoever adds another one waits too, because they hold memory."""


class CallsBeside:
    """A thread for calls that may be added from several threads. Its errors are raised in whoever adds or closes."""

    def __init__(self, max_waiting: int = MAX_WAITING) -> None:
        """At most `max_waiting` calls wait or run."""
        self._pool, self._most = ThreadPoolExecutor(1), max_waiting
        self._waiting: deque[Future[object]] = deque()
        self._adding = Lock()

    def add(self, call: Callable[[], object]) -> None:
        """Make a call after the earlier ones. Raises what an earlier call has raised."""
        with self._adding:
            # In the caller's context, so that what is noted there belongs to the same measurement.
            self._waiting.append(self._pool.submit(copy_context().run, call))
            while self._waiting and (self._waiting[0].done() or len(self._waiting) > self._most):
                self._waiting.popleft().result()

    def close(self) -> None:
        """Wait for all calls. Raises what one of them has raised."""
        self._pool.shutdown()
        while self._waiting:
            self._waiting.popleft().result()

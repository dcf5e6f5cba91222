"""A mapping that a thread makes while other work goes on."""

from collections.abc import Callable, Iterator, Mapping
from threading import Thread
from typing import Any


class Later(Mapping[str, Any]):
    """What `make` returns, which a thread begins to make at once; whoever looks into it waits until it is there.

    An error of `make` is raised in whoever looks. A process that ends waits for the thread, which would abort it by
    returning from torch when the interpreter is gone. It does not wait for calls that a thread pool has yet to begin.
    """

    def __init__(self, make: Callable[[], Mapping[str, Any]]) -> None:
        self._made: Mapping[str, Any] = {}
        self._error: BaseException | None = None
        self._thread = Thread(target=self._run, args=(make,))
        self._thread.start()

    def _run(self, make: Callable[[], Mapping[str, Any]]) -> None:
        try:
            self._made = make()
        except BaseException as error:
            self._error = error

    def _whole(self) -> Mapping[str, Any]:
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._made

    def __getitem__(self, name: str) -> Any:
        return self._whole()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._whole())

    def __len__(self) -> int:
        return len(self._whole())

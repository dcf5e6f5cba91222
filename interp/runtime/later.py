"""A mapping that a thread makes while other work goes on."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class Later(Mapping[str, Any]):
    """What `make` returns, which a thread begins to make at once; whoever looks into it waits until it is there.

    An error of `make` is raised in whoever looks.
    """

    def __init__(self, make: Callable[[], Mapping[str, Any]]) -> None:
        pool = ThreadPoolExecutor(1)
        self._made = pool.submit(make)
        pool.shutdown(wait=False)

    def __getitem__(self, name: str) -> Any:
        return self._made.result()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._made.result())

    def __len__(self) -> int:
        return len(self._made.result())

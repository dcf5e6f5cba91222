"""Triton's launchers, the C functions that pass a kernel its arguments, in threads that load them at the same time."""

from collections.abc import Callable
from functools import cache
from threading import Lock
from types import SimpleNamespace
from typing import Any


@cache
def load_launchers_apart() -> None:
    """Let threads of this process load Triton's launchers one at a time; the module triton must be installed.

    Triton has a module for each signature, all of one name. If one is loaded for the second time, for another variant
    of a kernel, Python puts its functions into the module that has this name at the moment, and Triton takes the
    launcher from there. If a thread loads another one in between, the kernel keeps the launcher of another signature.
    """
    from triton.runtime import build

    # Not a part of Triton's interface. It is the same in Triton 3.5 to 3.9.
    if hasattr(build, "_load_module_from_path"):
        build._load_module_from_path = one_at_a_time(build._load_module_from_path)


def one_at_a_time(load: Callable[[str, str], Any]) -> Callable[[str, str], Any]:
    """A function that loads a module by name and path as `load` does, and returns a copy that stays as it is."""
    loading = Lock()

    def loaded(name: str, path: str) -> Any:
        with loading:
            return SimpleNamespace(**vars(load(name, path)))

    return loaded

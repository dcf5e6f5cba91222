"""Public names of a package that are imported when they are first used (PEP 562), so that the package stays light."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any


def on_demand(
    package: str, names_of: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of `package`; `names_of` maps its modules to the names that they hold.

    Its other modules are found too, so that `import interp` is enough for `interp.patching.patch_effect`.
    """
    home = {name: module for module, names in names_of.items() for name in names}

    def find(name: str) -> Any:
        if name not in home:
            # Python itself asks for names as __path__.
            if not name.startswith("_") and find_spec(f"{package}.{name}") is not None:
                return import_module(f"{package}.{name}")
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{home[name]}"), name)

    def names() -> list[str]:
        return sorted({*vars(import_module(package)), *home})

    return find, names

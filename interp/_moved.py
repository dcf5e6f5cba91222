"""Old module paths that were documented, kept for release 0.2: importing one warns and gives the module that took over.

Remove this file, and the lines that call it, with release 0.3.
"""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "interp.attribution": "interp.screening.attribution",
    "interp.clamps": "interp.measurement.clamps",
    "interp.normalize": "interp.questions.canonical",
    "interp.patching": "interp.causal.layer_patching",
}
"""Old path -> new path."""


class _Moved(MetaPathFinder, Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        new = MOVED[spec.name]
        warnings.warn(
            f"{spec.name} has moved to {new}; the old path goes with release 0.3.", FutureWarning, stacklevel=2
        )
        return import_module(new)

    def exec_module(self, module: ModuleType) -> None:
        """The module that took over has run already."""


def install() -> None:
    """Let Python find the old paths, after it has looked everywhere else."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        sys.meta_path.append(_Moved())

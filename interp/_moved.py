"""Documented module paths of release 0.1. Importing one warns and returns the module that replaced it.

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
    "finetune.arms": "finetune.evaluation.arms",
    "interp.attribution": "interp.screening.attribution",
    "interp.clamps": "interp.measurement.clamps",
    "interp.normalize": "interp.questions.canonical",
    "interp.patching": "interp.causal.layer_patching",
}
"""Old module path -> new module path."""


class _Moved(MetaPathFinder, Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        new = MOVED[spec.name]
        warnings.warn(f"{spec.name} has moved to {new}; release 0.3 removes the old path.", FutureWarning, stacklevel=2)
        return import_module(new)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: the new module has been executed already."""


def install() -> None:
    """Make Python find the old paths, after all other finders."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        sys.meta_path.append(_Moved())

"""When Python looks for garbage in reference cycles: seldom, because of the objects that imports leave behind."""

import atexit
import gc
from typing import Any

COLLECT_AFTER = 50_000
"""New objects after which Python looks among the youngest ones; by default it does so after 700 or 2,000."""
IMPORTS = 20
"""First passes that spare what there is: the imports of a search make a million objects."""
_spared = iter(range(IMPORTS))


def collect_seldom() -> None:
    """Look for cycles seldom from now on, and neither during the imports nor while the process ends.

    Nearly all objects are those of torch, transformers and pandas and stay to the end. Walking them again and again
    takes a third of the imports' time, and once more a second when the process ends.
    """
    gc.set_threshold(COLLECT_AFTER, *gc.get_threshold()[1:])
    # There may be many calls in one process of tests.
    if _spare_imports not in gc.callbacks:
        gc.callbacks.append(_spare_imports)
        # What is frozen is not walked.
        atexit.register(gc.freeze)


def _spare_imports(phase: str, info: dict[str, Any]) -> None:
    """Freeze all objects when one of the first passes begins, so that it has none to walk; others are as usual."""
    # Only a pass that was asked for walks all generations so early.
    if phase == "start" and info["generation"] < 2 and next(_spared, None) is not None:
        gc.freeze()

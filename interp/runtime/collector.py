"""When Python looks for garbage in reference cycles: seldom, because of the objects that imports leave behind."""

import atexit
import gc

COLLECT_AFTER = 50_000
"""New objects after which Python looks among the youngest ones; by default it does so after 700 or 2,000."""


def collect_seldom() -> None:
    """Look for cycles seldom from now on, and not at all while the process ends.

    Nearly all objects are those of torch, transformers and pandas and stay to the end. Walking them again and again
    takes a quarter of the imports' time, and once more a second when the process ends.
    """
    gc.set_threshold(COLLECT_AFTER, *gc.get_threshold()[1:])
    # What is frozen is not walked; a second call would do no harm, but there may be many in one process of tests.
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)

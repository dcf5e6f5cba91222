"""A command as a process of its own."""

import atexit
import os
import sys
from collections.abc import Callable

NOT_WRITTEN = 120
"""Exit code, as Python's own, of a command whose output could not be written to the end."""


def run_process(main: Callable[[], None]) -> None:
    """Run a command's `main`, and end the process without taking apart what it imported.

    Python would free the million objects of torch and transformers one by one, which takes a quarter of a second. What
    they registered for the end of the process is still called, threads are waited for, and the exit code is that of
    `main`. After any other error than SystemExit, the process ends in the usual way.
    """
    code = 0

    def leave() -> None:
        status = code
        for stream in (sys.stdout, sys.stderr):
            try:
                # Python has none for a stream that was closed before it started.
                if stream is not None:
                    stream.flush()
            except (OSError, ValueError):
                status = status or NOT_WRITTEN
        os._exit(status)

    # What is registered first is called last.
    atexit.register(leave)
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
    except BaseException:
        atexit.unregister(leave)
        raise

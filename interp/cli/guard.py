"""What both commands do around the one that was asked for: a quiet start, and a paragraph for a user's mistake."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from interp.runtime import log as detail
from interp.runtime.distributed import is_first_to_report, shut_down
from interp.runtime.errors import EXIT_INPUT, EXIT_STOPPED, MORE_ROOM, InputError

PLAIN = None
"""Markup of help texts: none, so that options and examples have the whole width of the terminal."""
HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
"""How help is asked for, and the most columns that it takes."""


@contextmanager
def command() -> Iterator[None]:
    """Around a command: libraries are quiet, a user's mistake or a lack of memory is a line and exit code 2."""
    try:
        detail.silence_libraries()
        yield
    except SystemExit:
        # typer's own end, at which all processes are done: one that still holds on to the others may abort as it ends.
        shut_down()
        raise
    except InputError as error:
        if is_first_to_report():
            print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(EXIT_INPUT)
    except KeyboardInterrupt:
        # Where typer does not see to it: before the command begins.
        sys.exit(EXIT_STOPPED)
    except RuntimeError as error:
        # Told by its name, as torch need not have been loaded.
        if type(error).__name__ != "OutOfMemoryError":
            raise
        print(f"error: {str(error).splitlines()[0]} {MORE_ROOM}", file=sys.stderr, flush=True)
        sys.exit(EXIT_INPUT)
    finally:
        detail.reset_logging()

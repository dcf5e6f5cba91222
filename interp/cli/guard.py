"""What both commands do around the subcommand: they silence libraries, and print bad input as one paragraph."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from interp.runtime import log as detail
from interp.runtime.distributed import is_first_to_report, shut_down
from interp.runtime.errors import EXIT_INPUT, EXIT_STOPPED, MORE_ROOM, InputError

PLAIN = None
"""Markup of help texts: none, so that options and examples use the full width of the terminal."""
HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
"""The names of the help option, and the greatest width of help pages in columns."""


@contextmanager
def command() -> Iterator[None]:
    """Run a command with silent libraries; bad input or lack of memory becomes one line and exit code 2."""
    try:
        detail.silence_libraries()
        yield
    except SystemExit:
        # typer ends a command this way. A process that is still connected to the others may abort when it exits.
        shut_down()
        raise
    except InputError as error:
        if is_first_to_report():
            print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(EXIT_INPUT)
    except KeyboardInterrupt:
        # Before the command begins, when typer does not handle it yet.
        sys.exit(EXIT_STOPPED)
    except RuntimeError as error:
        # Recognized by its name, because torch may not be loaded.
        if type(error).__name__ != "OutOfMemoryError":
            raise
        print(f"error: {str(error).splitlines()[0]} {MORE_ROOM}", file=sys.stderr, flush=True)
        sys.exit(EXIT_INPUT)
    finally:
        detail.reset_logging()

"""What both commands do around the subcommand: they silence libraries, and print bad input as one paragraph."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from interp.runtime import log as detail
from interp.runtime.allocator import keep_freed_memory
from interp.runtime.collector import collect_seldom
from interp.runtime.distributed import check_launcher_variables, is_first_to_report, shut_down
from interp.runtime.errors import EXIT_INPUT, EXIT_STOPPED, MORE_ROOM, InputError, first_line
from interp.runtime.threads import sleep_while_waiting, take_short_turns

PLAIN = None
"""Markup of help texts: none, so that options and examples use the full width of the terminal."""
HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
"""The names of the help option, and the greatest width of help pages in columns."""

PLACE_ERRNOS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
"""System errors of a place that may not be read or written."""


@contextmanager
def command() -> Iterator[None]:
    """Run a command with silent libraries; bad input or lack of memory becomes one line and exit code 2."""
    try:
        check_launcher_variables()
        detail.silence_libraries()
        collect_seldom()
        sleep_while_waiting()
        take_short_turns()
        keep_freed_memory()
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
    except OSError as error:
        # Of a file that the user named, such as an option's; others are our mistakes.
        if error.filename is None or error.errno not in PLACE_ERRNOS:
            raise
        print(f"error: {error.filename}: {error.strerror}. Choose another place, or mend its rights.", file=sys.stderr)
        sys.exit(EXIT_INPUT)
    except RuntimeError as error:
        # Recognized by its name, because torch may not be loaded.
        if type(error).__name__ != "OutOfMemoryError":
            raise
        print(f"error: {first_line(error)} {MORE_ROOM}", file=sys.stderr, flush=True)
        sys.exit(EXIT_INPUT)
    finally:
        detail.reset_logging()

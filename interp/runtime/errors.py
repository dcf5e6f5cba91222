"""The exception for mistakes of the user, and the exit codes of the commands."""

import re

EXIT_INPUT = 2
"""Exit code for a mistake of the user and for too little memory."""
EXIT_NO_GATE = 3
"""Exit code of find-features if no layer beats its controls."""
EXIT_FOUND = 4
"""Exit code of scrub and verify if something was found."""
EXIT_STOPPED = 130
"""Exit code of an interrupted run (Ctrl-C)."""
MORE_ROOM = "Free memory on the GPU, or use a smaller model or fewer layers."
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class InputError(ValueError):
    """Bad input. The message names the file and row, what was found, what was expected and what to do.

    Control characters are escaped: a name in a file may contain some, and a terminal would obey them.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_CONTROL.sub(lambda found: repr(found[0])[1:-1], message))

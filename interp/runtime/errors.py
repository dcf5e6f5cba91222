"""The one exception for a user's mistake, which the commands print as a paragraph; their exit codes."""

import re

EXIT_INPUT = 2
"""Exit code of a user's mistake, and of too little memory."""
EXIT_NO_GATE = 3
"""Of find-features where no layer beats its controls."""
EXIT_FOUND = 4
"""Of scrub where something was found."""
EXIT_STOPPED = 130
"""Of a run that was interrupted (Ctrl-C)."""
MORE_ROOM = "Free memory of the GPU, or take a smaller model or fewer layers."
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class InputError(ValueError):
    """Bad input: the message names the file, the row, what was found, what was expected, what to do.

    Control characters, which a name in a file may bring and a terminal would obey, are spelled out.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_CONTROL.sub(lambda found: repr(found[0])[1:-1], message))

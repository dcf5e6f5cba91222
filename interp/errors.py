"""The one exception for a user's mistake; the commands print it as a paragraph and exit 2."""

import re

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class InputError(ValueError):
    """Bad input: the message names the file, the row, what was found, what was expected, what to do.

    Control characters, which a name in a file may bring and a terminal would obey, are spelled out.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_CONTROL.sub(lambda found: repr(found[0])[1:-1], message))

"""The exception for mistakes of the user, and the exit codes of the commands."""

import re

EXIT_INPUT = 2
"""Exit code for a mistake of the user and for too little memory."""
EXIT_NO_GATE = 3
"""Exit code of find-features if no layer is found, or the flips are too few to say."""
EXIT_FOUND = 4
"""Exit code of scrub and verify if something was found."""
EXIT_STOPPED = 130
"""Exit code of an interrupted run (Ctrl-C)."""
MORE_ROOM = "Free memory on the GPU, or use a smaller model or fewer layers."
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class InputError(ValueError):
    """Bad input. The message names the file and row, what was found, what was expected and what to do.

        >>> interp.load_questions("questions.csv")
        Traceback (most recent call last):
        ...
        interp.runtime.errors.InputError: questions.csv: no such file. Give a JSON Lines file with one question ...

    Control characters are escaped: a name in a file may contain some, and a terminal would obey them.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_CONTROL.sub(lambda found: repr(found[0])[1:-1], message))


_DECORATION = re.compile(r"Traceback \(most recent call last\):?|[\W_]*|File \".*\", line \d+.*")


def first_line(error: BaseException) -> str:
    """The first line of an error's message that says something, or else the name of its type.

    Libraries begin messages with empty lines, rules of dashes, or the traceback of another process.
    """
    lines = str(error).splitlines()
    inside = False
    for line in map(str.strip, lines):
        # The line below the place in a traceback quotes code.
        quoted, inside = inside, line.startswith('File "')
        if not quoted and not _DECORATION.fullmatch(line):
            return line
    return type(error).__name__

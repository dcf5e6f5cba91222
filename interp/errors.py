"""The one exception for a user's mistake; the commands print it as a paragraph and exit 2."""


class InputError(ValueError):
    """Bad input: the message names the file, the row, what was found, what was expected, what to do."""

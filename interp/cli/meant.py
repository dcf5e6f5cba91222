"""What a user probably meant who gave a command a path or a name that it does not know."""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from interp.runtime.errors import InputError


def check_subcommand(program: str, arguments: list[str], commands: Iterable[str], for_paths: str) -> None:
    """Raise InputError if the first argument is neither an option nor one of the `commands`.

    `for_paths` says what to run instead if it is a path; {path} in it stands for that.
    """
    if not arguments or arguments[0].startswith("-") or arguments[0] in (known := list(commands)):
        return
    given = arguments[0]
    if "/" in given or "\\" in given or Path(given).exists():
        raise InputError(f"{given}: {program} has no command of this name. {for_paths.replace('{path}', given)}")
    close = get_close_matches(given, known, n=1)
    meant = f"Did you mean `{program} {close[0]}`?" if close else f"It has {', '.join(known)}."
    raise InputError(f"{given}: {program} has no command of this name. {meant}")

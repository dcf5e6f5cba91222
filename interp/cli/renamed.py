"""Options and values of release 0.1 that have another name now. They work, with a warning, until release 0.3."""

import sys
from collections.abc import Iterator, Mapping, Sequence

OPTIONS = {
    "interp": {"--batch-size": "--batch-tokens", "--width": "--sae-width", "--max-width": "--max-layers"},
    "finetune": {"--width": "--sae-width"},
}
"""Program -> old name of an option -> its name now."""
VALUES = {"--rule": {"rise": "growth", "level": "near-peak"}}
"""Option -> old value -> the value now."""


def current_arguments(program: str, arguments: Sequence[str]) -> list[str]:
    """The arguments of a command line with old names replaced, each with a warning on stderr."""
    return list(_replaced(OPTIONS[program], arguments))


def _replaced(options: Mapping[str, str], arguments: Sequence[str]) -> Iterator[str]:
    option = ""
    for argument in arguments:
        if not argument.startswith("--"):
            yield _current(VALUES.get(option, {}), argument)
            option = ""
            continue
        option, equals, value = argument.partition("=")
        option = _current(options, option)
        yield f"{option}={_current(VALUES.get(option, {}), value)}" if equals else option


def _current(names: Mapping[str, str], name: str) -> str:
    if name not in names:
        return name
    print(f"{name} is now called {names[name]}; release 0.3 removes the old name.", file=sys.stderr)
    return names[name]

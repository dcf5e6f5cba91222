"""Settings that are declared once: a field of a dataclass is also an option of a command and an entry of a record."""

from collections.abc import Sequence
from dataclasses import Field, field, fields
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from interp.runtime.errors import InputError

LARGEST_SEED = 2**32 - 1
"""The greatest seed that every generator of random numbers takes; torch's overflows beyond 2**64."""


class Option(NamedTuple):
    """What a field says about itself: its help text, its range, and how the command line shows it."""

    help: str
    """The meaning of the field, with its unit."""
    min: float | None = None
    """Least value, included."""
    above: float | None = None
    """Lower bound, excluded."""
    max: float | None = None
    """Greatest value, included."""
    below: float | None = None
    """Upper bound, excluded."""
    shown: str | None = None
    """What help pages show as the default; None shows the value itself."""
    flags: Sequence[str] = ()
    """Names on the command line; by default `--` and the name of the field."""
    on_command_line: bool = True
    """Whether the commands offer it; if not, it can only be set from Python."""
    path: bool = False
    """Whether text for the field is the path of a file or folder, and not a hub id."""
    advanced: bool = False
    """Whether help pages list it last, because most users leave it alone."""


def option(default: Any, help: str, **more: Any) -> Any:
    """A dataclass field with an `Option`; `more` are the fields of `Option` after `help`."""
    return field(default=default, metadata={"option": Option(help, **more)})


def option_of(declared: "Field[Any]") -> Option | None:
    """The option that a field was declared with, or None for a plain field."""
    return declared.metadata.get("option")


def help_of(settings: Any, name: str) -> str:
    """The help text of a field of a dataclass, for a command that takes this field alone."""
    return next(found.help for f in fields(settings) if f.name == name and (found := option_of(f)) is not None)


def check_options(settings: Any) -> None:
    """Raise InputError if a field of a dataclass is outside the range of its option, or not one of its choices."""
    kinds = get_type_hints(type(settings))
    for declared in fields(settings):
        found, value = option_of(declared), getattr(settings, declared.name)
        if found is None or value is None:
            continue
        if get_origin(kinds[declared.name]) is Literal and value not in get_args(kinds[declared.name]):
            choices = ", ".join(get_args(kinds[declared.name]))
            raise InputError(f"{declared.name} is {value!r}, expected one of {choices}.")
        # Comparisons that hold, not ones that fail, so that nan is refused.
        bounds = [
            (found.min, f"at least {found.min}", found.min is None or value >= found.min),
            (found.above, f"above {found.above}", found.above is None or value > found.above),
            (found.max, f"at most {found.max}", found.max is None or value <= found.max),
            (found.below, f"below {found.below}", found.below is None or value < found.below),
        ]
        if not all(holds for _, _, holds in bounds):
            expected = " and ".join(text for bound, text, _ in bounds if bound is not None)
            raise InputError(f"{declared.name} is {value}, expected {expected}.")

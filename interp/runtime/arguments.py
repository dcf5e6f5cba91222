"""Checks of the arguments of public functions, so that a mistake is named before anything is computed."""

from collections.abc import Sequence
from typing import Any

from interp.runtime.errors import InputError

ADVICE = {
    "Vlm": "Load one with load_vlm().",
    "Sae": "Load one with load_sae().",
    "Question": "Read questions with load_questions().",
}
"""Name of a class -> how to get an instance of it."""


def expect(name: str, value: Any, kind: type) -> None:
    """Raise InputError, which names the parameter, unless `value` is a `kind`."""
    if not isinstance(value, kind):
        raise InputError(f"{name} is {_type_of(value)}, expected a {kind.__name__}. {ADVICE[kind.__name__]}")


def expect_one_of(name: str, value: Any, kinds: Any, expected: str) -> None:
    """Raise InputError, which names the parameter, unless `value` is of one of `kinds`, a type or a union of types.

    `expected` says what they are and where to get one, without a full stop.
    """
    if not isinstance(value, kinds):
        raise InputError(f"{name} is {_type_of(value)}, expected {expected}.")


def expect_each(name: str, values: Any, kind: type) -> None:
    """Raise InputError, which names the parameter, unless `values` is a sequence of `kind` that is not empty."""
    expected = f"expected a list of {kind.__name__}. {ADVICE[kind.__name__]}"
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        raise InputError(f"{name} is {_type_of(values)}, {expected}")
    if not values:
        raise InputError(f"{name} is empty, {expected}")
    for place, value in enumerate(values):
        if not isinstance(value, kind):
            raise InputError(f"{name}[{place}] is {_type_of(value)}, {expected}")


def _type_of(value: Any) -> str:
    """The type of a value; never the value, which may hold a patient's data."""
    return "None" if value is None else f"of type {type(value).__name__}"

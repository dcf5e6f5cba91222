"""The one form of numbers, intervals and p values in every view.

- Rates of questions, pairs and answers are percentages. Shares of a margin shift (recovery), and of the answers that
  layers make, are decimals, because they may be negative or above 1.
- A minus is the minus sign U+2212, and an undefined number is an en dash.
- An interval stands in brackets after its estimate: `0.71 [0.64, 0.77]`. A no-break space keeps the brackets together.
- A p value has three decimals and no leading zero, as the APA style asks: `.012`, or `< .001` if it is smaller. In
  running text it is `p = .012` or `p < .001`.
"""

import math
from typing import NamedTuple, Protocol

NONE = "–"
"""Stands where a number is undefined or does not apply."""


class Scale(NamedTuple):
    """How a number is printed."""

    factor: float
    """What the number is multiplied by."""
    digits: int
    """How many decimals are shown."""


PERCENT, UNSCALED = Scale(100.0, 1), Scale(1.0, 2)


class Estimated(Protocol):
    """An estimate with its 95% interval; undefined parts are None or NaN."""

    @property
    def value(self) -> float | None:
        """The estimate."""

    @property
    def low(self) -> float | None:
        """Lower end of the 95% interval."""

    @property
    def high(self) -> float | None:
        """Upper end of the 95% interval."""


def number(value: float | None, scale: Scale = UNSCALED, sign: bool = False) -> str:
    """A number with its thousands separated; `sign` writes a plus before positive ones."""
    if value is None or not math.isfinite(value):
        return NONE
    # Adding zero removes the sign of a rounded negative zero.
    rounded = round(scale.factor * value, scale.digits) + 0.0
    return f"{rounded:{'+' if sign else ''},.{scale.digits}f}".replace("-", "−")


def interval(found: Estimated, scale: Scale = UNSCALED, sign: bool = False, unit: str = "") -> str:
    """An estimate with its 95% interval, as `0.71 [0.64, 0.77]` or, with a unit, `71.0% [64.0, 77.0]`.

    An estimate without an interval stands alone.
    """
    value = number(found.value, scale, sign)
    low, high = number(found.low, scale, sign), number(found.high, scale, sign)
    if value == NONE:
        return NONE
    return value + unit if NONE in (low, high) else f"{value}{unit} [{low},\xa0{high}]"


def p_value(p: float | None) -> str:
    """A p value for a column that is headed p: `.012`, `1.000` or `< .001`."""
    if p is None or not math.isfinite(p):
        return NONE
    return "<\xa0.001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


def p_phrase(p: float | None) -> str:
    """A p value in running text: `p = .012` or `p < .001`."""
    text = p_value(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def spoken(name: str) -> str:
    """A name of an artifact with spaces in place of its underscores."""
    return name.replace("_", " ")


def sentence(text: str) -> str:
    """A text with a capital and a full stop."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")

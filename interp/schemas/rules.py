"""The rules that take a range of layers from a layer profile (`interp.profile.ranges`)."""

from typing import Literal

Rule = Literal["write", "growth", "near-peak"]

"""The rules that take a range of layers from a layer profile (`interp.profile.ranges`)."""

from typing import Literal

Rule = Literal["answer", "write", "growth", "near-peak"]

LEAST_FLIPS = 10
"""Fewest banked flips from which anything is concluded."""

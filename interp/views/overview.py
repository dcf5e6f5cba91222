"""A result in short: what the terminal prints after a command and a notebook shows below a cell."""

from dataclasses import dataclass, field

from interp.views.table import Table

Facts = list[tuple[str, str]]
"""Single numbers, each as its name and its text."""


@dataclass(frozen=True)
class Overview:
    """The parts of a result that are shown everywhere."""

    heading: str
    """What was studied, in one line."""
    conclusion: list[str]
    """What the result comes to, one sentence each."""
    facts: Facts = field(default_factory=list)
    """Single numbers, each as its name and its text."""
    tables: list[Table] = field(default_factory=list)
    """The tables, in order."""
    notes: list[str] = field(default_factory=list)
    """What limits the result, one sentence each."""

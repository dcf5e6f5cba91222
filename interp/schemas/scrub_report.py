"""What `interp scrub` found in a folder."""

from typing import NamedTuple

SHORTEST_SEARCHED = 4
"""Shortest text, id or path that is searched for [characters]; shorter ones would match by chance."""


class Finding(NamedTuple):
    """A reason not to share a file."""

    file: str
    """Path of the file inside the folder."""
    what: str
    """What the file holds or may hold, without quoting it."""


class ScrubReport(NamedTuple):
    """The findings in a folder, and what the search left out."""

    findings: list[Finding]
    """Reasons not to share files, in the order of the files."""
    files: int
    """Number of files in the folder."""
    too_short: int
    """Number of ids, names and texts of the questions that are shorter than SHORTEST_SEARCHED."""

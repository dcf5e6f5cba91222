"""Naming a feature as LAYER:FEATURE."""

import re

from interp.runtime.errors import InputError


def parse_feature(text: str) -> tuple[int, int]:
    """Layer and feature of LAYER:FEATURE, for example 17:3818. Raises InputError for anything else."""
    match = re.fullmatch(r"(\d{1,4}):(\d{1,9})", text.strip(), re.ASCII)
    if match is None:
        raise InputError(f"{text!r}: found no feature, expected LAYER:FEATURE as 17:3818.")
    return int(match[1]), int(match[2])

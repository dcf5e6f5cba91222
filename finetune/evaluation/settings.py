"""The settings of an evaluation."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from interp.runtime.errors import InputError
from interp.runtime.options import LARGEST_SEED, check_options, option

TOLERANCE = 0.05
"""Loss of accuracy or of reliance on the image, as a share of the questions, up to which a verdict says "kept"; a
convention, not a finding."""
LEAST_TOLERANCE = 0.5
"""Least tolerance above zero [percentage points]; what is smaller is a share that was meant as points."""
NEW_TOKENS = 16
"""Tokens that an evaluation generates for every answer, unless the true answer is longer."""
ClampIn = Literal["base", "adapters", "both"]
"""The models that clamps are applied to: the base, each adapter and whole model, or all of these."""


@dataclass(frozen=True)
class EvaluationSettings:
    """How arms are compared with their base. Raises InputError for a value outside its range.

    >>> finetune.EvaluationSettings(tolerance=3, new_tokens=0).tolerance  # percentage points
    3
    """

    tolerance: float = option(
        100 * TOLERANCE,
        'Loss of accuracy or of reliance on the image, in percentage points, up to which the verdict says "kept".',
        min=0,
        max=100,
    )
    new_tokens: int = option(
        NEW_TOKENS, "Tokens generated for each answer; 0 for measures of the first token alone.", min=0
    )
    sentence_encoder: str | Path | None = option(
        None,
        "Sentence encoder (sentence-transformers or transformers, a folder or a hub id) that tells which wordings are "
        "alike, for PSF-Med's FlipBank.",
        shown="none, all wordings count as alike",
        advanced=True,
    )
    seed: int = option(
        0, "Seed of the bootstrap, the permutations, the noise and the swapped images.", min=0, max=LARGEST_SEED
    )

    def __post_init__(self) -> None:
        check_options(self)
        if 0 < self.tolerance < LEAST_TOLERANCE:
            raise InputError(
                f"tolerance is {self.tolerance} percentage points, expected 0 or at least {LEAST_TOLERANCE}. A share "
                f"of {self.tolerance} is {100 * self.tolerance:g} points."
            )
        if self.sentence_encoder is not None and not self.new_tokens:
            raise InputError("--sentence-encoder serves to compare answers in words. Give --new-tokens above 0.")

"""The settings of an evaluation."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from interp.runtime.errors import InputError
from interp.runtime.options import check_options, option

TOLERANCE = 0.05
"""Loss of accuracy or of reliance on the image, as a share of the questions, up to which a verdict says "kept"; a
convention, not a finding."""
NEW_TOKENS = 16
"""Tokens that an evaluation generates for every answer, unless the true answer is longer."""
ClampIn = Literal["base", "adapters", "both"]
"""The models that clamps are applied to: the base, each adapter and whole model, or all of these."""


@dataclass(frozen=True)
class EvaluationSettings:
    """How arms are compared with their base. Raises InputError for a value outside its range."""

    tolerance: float = option(
        TOLERANCE,
        "Loss of accuracy or of reliance on the image, as a share of the questions, up to which the verdict says "
        '"kept".',
        min=0,
        max=1,
        on_command_line=False,
    )
    new_tokens: int = option(
        NEW_TOKENS, "Tokens generated for each answer; 0 for measures of the first token alone.", min=0
    )
    sentence_encoder: Path | None = option(
        None,
        "Sentence encoder (sentence-transformers or transformers, a folder or a hub id) that tells which wordings are "
        "alike, for PSF-Med's FlipBank.",
        shown="none, all wordings count as alike",
        advanced=True,
    )
    seed: int = option(0, "Seed of the bootstrap, the permutations, the noise and the swapped images.", min=0)

    def __post_init__(self) -> None:
        check_options(self)
        if self.sentence_encoder is not None and not self.new_tokens:
            raise InputError("--sentence-encoder serves to compare answers in words. Give --new-tokens above 0.")

"""The settings of a training run."""

from dataclasses import dataclass
from typing import Literal, get_args

from interp.runtime.errors import InputError

Grounding = Literal["none", "blank", "swap"]
"""What holds an adapter to the image: nothing, the blank image, or other patients' images (finetune.training.loss)."""

TOLERANCE = 0.05
"""Loss of accuracy or of looking, as a share of the questions, that a verdict calls kept: a convention, no finding."""
NEW_TOKENS = 16
"""Tokens that an evaluation generates of every answer, unless the true answer is longer."""


@dataclass(frozen=True)
class TrainSettings:
    """How an adapter is trained; the defaults are those of the published targeted LoRA (arXiv 2603.00148).

    Raises InputError for a value outside its range.
    """

    rank: int = 16
    """Rank of every update, at least 1."""
    alpha: int = 32
    """The update is scaled by alpha / rank."""
    dropout: float = 0.05
    """Dropout on the input of the update, in [0, 1)."""
    lr: float = 2e-4
    """Peak learning rate of AdamW."""
    batch_size: int = 8
    """Questions (each with one paraphrase) an optimizer step."""
    micro_batch_size: int | None = None
    """Questions a forward pass; None for as many as the GPU's memory holds. The result stays the same up to dropout."""
    epochs: int = 3
    """Times that every question is met, each time with another random paraphrase."""
    consistency_weight: float = 1.0
    """Weight of the divergence between the two wordings' answers; 0 trains on the answers alone."""
    answer_weight: float = 1.0
    """Weight of the true answers' cross-entropy; 0 trains on the consistency alone, which any one answer satisfies."""
    grounding: Grounding = "none"
    """Term added for yes/no questions. blank: without the image their answer shall be undecided. swap: on another
    patient's image, of which the opposite is true, it shall lean less towards the truth."""
    grounding_weight: float = 1.0
    """Weight of the grounding term."""
    warmup_share: float = 0.03
    """Share of the steps in which the learning rate rises to its peak; a cosine takes it to zero after."""
    weight_decay: float = 0.01
    """Weight decay of AdamW."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    seed: int = 0
    """Seed of the initial weights, the order, the choice of paraphrases and the dropout."""

    def __post_init__(self) -> None:
        for name in ("rank", "alpha", "batch_size", "micro_batch_size", "epochs"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, expected at least 1.")
        for name in ("dropout", "warmup_share"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, expected at least 0 and below 1.")
        for name in ("lr", "max_grad_norm"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)}, expected above 0.")
        for name in ("consistency_weight", "answer_weight", "grounding_weight", "weight_decay", "seed"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} is {getattr(self, name)}, expected at least 0.")
        if self.grounding not in get_args(Grounding):
            raise InputError(f"grounding is {self.grounding!r}, expected one of {', '.join(get_args(Grounding))}.")

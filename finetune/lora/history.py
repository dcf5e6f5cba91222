"""The course of a training: one record an optimizer step, the rows of history.csv."""

from typing import NamedTuple


class StepRecord(NamedTuple):
    """One optimizer step, as it is written to history.csv."""

    step: int
    """Counted from 1."""
    epoch: int
    """Counted from 1."""
    lr: float
    """Learning rate of the step."""
    loss: float
    """Answer weight * cross-entropy + consistency weight * divergence + grounding weight * grounding term, mean over
    the questions of the step, before the update."""
    ce: float
    """Cross-entropy of the first answer token [nats]."""
    kl: float
    """Symmetric KL between the two wordings [nats]."""
    grounding: float
    """Grounding term [nats for blank, logits for swap], 0 without one."""
    grad_norm: float
    """Norm of the gradient before clipping."""

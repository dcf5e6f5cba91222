"""The course of a training: one record per optimizer step, which is a row of history.csv."""

from typing import NamedTuple


class StepRecord(NamedTuple):
    """One optimizer step."""

    step: int
    """Number of the step, from 1."""
    epoch: int
    """Number of the epoch, from 1."""
    lr: float
    """Learning rate of the step."""
    loss: float
    """Loss of the step before its update, mean over its questions: answer weight x cross-entropy + consistency weight x
    divergence + grounding weight x grounding term."""
    ce: float
    """Cross-entropy of the first answer token [nats]."""
    kl: float
    """Symmetric KL divergence between the two wordings [nats]."""
    grounding: float
    """Grounding term [nats for blank, logits for swap]; 0 without one."""
    grad_norm: float
    """Norm of the gradient before clipping."""

"""The loss: right answers for both wordings, and the same answer for both."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Losses(NamedTuple):
    """The parts of the loss of each of n questions."""

    cross_entropy: Tensor
    """float32 [n]: of the first answer token [nats], mean over the question's wordings."""
    divergence: Tensor
    """float32 [n]: symmetric KL between the wordings' first-token distributions [nats], 0 without a paraphrase."""


def symmetric_divergence(first: Tensor, second: Tensor) -> Tensor:
    """0.5 * (KL(p || q) + KL(q || p)) of the distributions of two sets of logits [n, vocabulary] -> float32 [n]."""
    log_p, log_q = first.float().log_softmax(-1), second.float().log_softmax(-1)
    return 0.5 * ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(-1)


def question_losses(original: Tensor, paraphrase: Tensor, paired: Tensor, targets: Tensor) -> Losses:
    """Losses of n questions, of which k are asked in a second wording too.

    `original` [n, vocabulary] and `paraphrase` [k, vocabulary] are logits at the first answer position; `paired`
    int64 [k] is the question of each paraphrase; `targets` int64 [n] are the first tokens of the true answers.
    """
    cross_entropy = F.cross_entropy(original.float(), targets, reduction="none")
    second = F.cross_entropy(paraphrase.float(), targets[paired], reduction="none")
    cross_entropy = cross_entropy.index_add(0, paired, 0.5 * (second - cross_entropy[paired]))
    divergence = torch.zeros_like(cross_entropy)
    divergence = divergence.index_add(0, paired, symmetric_divergence(original[paired], paraphrase))
    return Losses(cross_entropy, divergence)

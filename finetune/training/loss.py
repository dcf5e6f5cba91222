"""The loss: the true answer to both wordings, the same answer to both, and on request no answer without the image."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from finetune.lora.settings import TrainSettings
from interp.model.prompts import AnswerTokens, answer_margin
from interp.model.vlm import Vlm

SWAP_MARGIN = 2.0
"""How much another patient's image must lower the margin towards the truth [logits]: one logit on either side of zero,
so that both answers can be right at odds of e to 1."""


class Objective(NamedTuple):
    """What a training minimizes."""

    settings: TrainSettings
    """Its settings, with the weights and the forms of the parts of the loss."""
    answers: AnswerTokens
    """The tokens of yes and of no, on the model's device."""
    words: Tensor
    """int64 [vocabulary]: a number for each token, the same for all spellings of a word; on the model's device. Empty
    if the settings teach one spelling."""


def objective_of(vlm: Vlm, settings: TrainSettings) -> Objective:
    """The objective of a training of `vlm`."""
    words = torch.zeros(0, dtype=torch.int64)
    if settings.spelling == "any":
        words = word_numbers(vlm.processor.tokenizer.get_vocab(), vlm.model.config.text_config.vocab_size)
    # On the device, because a CUDA graph cannot copy them there.
    return Objective(settings, AnswerTokens(*(ids.to(vlm.device) for ids in vlm.answers)), words.to(vlm.device))


def word_numbers(vocabulary: Mapping[str, int], size: int) -> Tensor:
    """For each of `size` tokens the smallest id of a token with the same word, regardless of case and spaces.

    `vocabulary` maps tokens to ids; those that the model has no logit for are left out. Yes and no thereby get the
    tokens of the answer margin (`interp.model.prompts.answer_tokens`) -> int64 [size].
    """
    numbers, first = torch.arange(size), dict[str, int]()
    for token, number in sorted(vocabulary.items(), key=lambda entry: entry[1]):
        if number < size:
            word = token.replace("▁", " ").replace("Ġ", " ").strip().lower()
            numbers[number] = first.setdefault(word, number)
    return numbers


class Losses(NamedTuple):
    """The parts of the loss, for each of n questions."""

    cross_entropy: Tensor
    """float32 [n]: cross-entropy of the first answer token [nats], mean over the taught wordings of a question."""
    divergence: Tensor
    """float32 [n]: `divergences` between the two wordings [nats]; 0 without a paraphrase."""
    grounding: Tensor
    """float32 [n]: `blank_loss` [nats] or `swap_loss` [logits], mean over the wordings of a question; 0 for questions
    without a substitute image."""


Part = TypeVar("Part", float, Tensor)


def total_loss(parts: Sequence[Part], settings: TrainSettings) -> Part:
    """The weighted sum of cross-entropy, divergence and grounding term, the parts of `Losses`."""
    cross_entropy, divergence, grounding = parts
    answers = settings.answer_weight * cross_entropy + settings.consistency_weight * divergence
    return answers + settings.grounding_weight * grounding


def symmetric_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """0.5 * (KL(p || q) + KL(q || p)) of two sets of distributions, from log-probabilities [n, vocabulary] -> [n]."""
    return 0.5 * ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(-1)


def answer_divergence(first: Tensor, second: Tensor) -> Tensor:
    """0.5 * (KL(p || q) + KL(q || p)) of the probabilities of yes and no, which sum to one, from two answer margins.

    `first` and `second` [n] are margins a and b [logits]: with p = sigmoid(a) and q = sigmoid(b), it is
    0.5 * (p - q) * (a - b) -> float32 [n] in nats.
    """
    first, second = first.float(), second.float()
    return 0.5 * (first.sigmoid() - second.sigmoid()) * (first - second)


def divergences(first: Tensor, second: Tensor, closed: Tensor, objective: Objective) -> Tensor:
    """The divergence of an objective between the answers to two wordings of k questions: float32 [k] in nats.

    `first` and `second` float32 [k, vocabulary] are log-probabilities of the first answer token; bool [k] says which
    questions are `closed`. The sum of both directions is twice their mean.
    """
    found = symmetric_divergence(first, second)
    if objective.settings.divergence_over == "yes-no":
        margins = answer_margin(first, objective.answers), answer_margin(second, objective.answers)
        found = torch.where(closed, answer_divergence(*margins), found)
    return 2 * found if objective.settings.divergence == "sum" else found


def answer_loss(log_p: Tensor, targets: Tensor, objective: Objective) -> Tensor:
    """The cross-entropy of n true answers: float32 [n] in nats.

    `log_p` float32 [n, vocabulary] are log-probabilities of the first answer token, `targets` int64 [n] the first
    tokens of the answers in lower case. With `spelling` "any", it is -log of the added probabilities of all spellings
    of these tokens.
    """
    if objective.settings.spelling == "lower-case":
        return F.nll_loss(log_p, targets, reduction="none")
    other = objective.words != objective.words[targets][:, None]
    return -log_p.masked_fill(other, -math.inf).logsumexp(-1)


def question_losses(logits: Tensor, paired: Tensor, targets: Tensor, closed: Tensor, objective: Objective) -> Losses:
    """The losses of n questions, k of which are also asked in a second wording.

    `logits` [n + k, vocabulary] are those at the first answer position, of the n originals and then of the k
    paraphrases. `paired` int64 [k] is the index of the question of each paraphrase, distinct and in ascending order;
    `targets` int64 [n] are the first tokens of the true answers; bool [n] says which questions are `closed`.
    """
    # One softmax for all, because a GPU computes each row on one of its processors, however many rows there are.
    first, second = logits.float().log_softmax(-1).split([len(targets), len(paired)])
    cross_entropy = answer_loss(first, targets, objective)
    divergence = torch.zeros_like(cross_entropy)
    if objective.settings.answer_wordings == "both":
        of_second = answer_loss(second, targets[paired], objective)
        cross_entropy = cross_entropy.index_add(0, paired, 0.5 * (of_second - cross_entropy[paired]))
    # If all questions have a second wording, `paired` counts them, and indexing would copy many MB.
    asked_twice = first if len(paired) == len(first) else first[paired]
    apart = divergences(asked_twice, second, closed[paired], objective)
    return Losses(cross_entropy, divergence.index_add(0, paired, apart), torch.zeros_like(cross_entropy))


def grounding_losses(own: Tensor, other: Tensor, yes: Tensor, blank: Tensor, question: Tensor, n: int) -> Tensor:
    """The grounding term of n questions from w of their wordings, mean over the wordings of a question: float32 [n].

    `own` and `other` [w] are answer margins [logits] on the true and the substitute image. bool [w] say whether `yes`
    is the true answer, and whether the substitute is `blank` or another patient's. `question` int64 [w] is the index of
    each wording's question. The term is 0 for questions without such a wording.
    """
    terms = torch.where(blank, blank_loss(other), swap_loss(own, other, yes))
    return terms.new_zeros(n).index_add(0, question, terms / question.bincount()[question])


def blank_loss(margin: Tensor) -> Tensor:
    """KL(1/2 || sigmoid(m)): how far the odds of yes and no are from even on the blank image, which shows nothing.

    `margin` [...] are answer margins m on the blank image [logits] -> float32 [...] in nats: 0 where m is 0, and about
    |m| / 2 - log 2 where |m| is large.
    """
    margin = margin.float()
    return -0.5 * (F.logsigmoid(margin) + F.logsigmoid(-margin)) - math.log(2)


def swap_loss(own: Tensor, swapped: Tensor, yes: Tensor) -> Tensor:
    """How much the image fails to move the margin: a hinge, 0 if it moves it by SWAP_MARGIN or more towards the truth.

    `own` and `swapped` [...] are answer margins [logits] on the true image and on one with the opposite answer. `yes`
    bool [...] says whether yes is the true answer -> float32 [...] in logits.
    """
    moved = own.float() - swapped.float()
    return F.relu(SWAP_MARGIN - torch.where(yes, moved, -moved))

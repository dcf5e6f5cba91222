"""Questions that are asked after every epoch: some that the training teaches, and as many of held-out patients.

Nothing is selected by them, and they change no weight: they are asked without dropout, draw no random number, and have
hidden states of their own.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from finetune.evaluation.answers import flipped
from finetune.evaluation.collect import right_tokens
from finetune.lora.history import EpochScores
from finetune.lora.modules import set_dropout
from finetune.lora.settings import TrainSettings
from finetune.training.forward import FirstTokenLogits, first_token_logits
from finetune.training.loss import Objective, objective_of, question_losses, total_loss
from finetune.training.prefix_states import PrefixStates, Prompt
from interp.model.image_tokens import encode_images
from interp.model.prompts import answer_margin, first_answer_token
from interp.model.vlm import Vlm
from interp.questions.schema import Question
from interp.questions.tables import pair_table, prompt_table
from interp.runtime.memory import memory_left

if TYPE_CHECKING:
    from accelerate import Accelerator
    from peft import PeftModel

CHUNK = 8
"""Questions per pass, in all of their wordings."""
SEED = 29
"""Seed of the samples. It is not that of the training, so that trainings with other seeds are asked the same."""


class Validation:
    """Two samples of questions, and how they were answered after each epoch so far."""

    def __init__(
        self,
        vlm: Vlm,
        adapted: "PeftModel",
        accelerator: "Accelerator",
        settings: TrainSettings,
        taught: Sequence[Question],
        asked: Sequence[Question],
    ) -> None:
        """Draw `settings.validate` questions with an answer from those `taught`, and from those of held-out patients.

        Every process asks its share.
        """
        self.scores: list[EpochScores] = []
        """The scores of both samples by epoch, from epoch 0, the base."""
        self._adapted, self._accelerator = adapted, accelerator
        self._objective = objective_of(vlm, settings)
        self._frozen = PrefixStates(vlm)
        self._samples = [draw(questions, settings.validate) for questions in (taught, asked)]
        self._ready = False

    def ask(self, epoch: int) -> list[EpochScores]:
        """Ask both samples after `epoch` epochs; returns their scores and adds them to `scores`.

        All processes must call it. The dropout of the adapter is switched off meanwhile.
        """
        dropout = any(module.training for module in self._adapted.modules())
        set_dropout(self._adapted, False)
        own = [self._share_of(sample) for sample in self._samples]
        if not self._ready:
            # Not earlier, so that the states of the training have the memory first.
            self._keep([question for part in own for question in part])
        forward = FirstTokenLogits(self._adapted)
        sums = torch.stack([self._sums(forward, part) for part in own]).to(self._frozen.vlm.device)
        added: Any = self._accelerator.reduce(sums, "sum")
        found = [
            scores_of(epoch, held_out, Sums(*row), self._objective.settings)
            for held_out, row in zip((False, True), added.tolist(), strict=True)
        ]
        self.scores += found
        set_dropout(self._adapted, dropout)
        return found

    def _share_of(self, sample: Sequence[Question]) -> list[Question]:
        n, place = self._accelerator.num_processes, self._accelerator.process_index
        return list(sample[place * len(sample) // n : (place + 1) * len(sample) // n])

    def _keep(self, questions: Sequence[Question]) -> None:
        vlm = self._frozen.vlm
        encode_images(vlm, [question.image for question in questions])
        prompts = [prompt for question in questions for prompt in wordings_of(question)]
        self._frozen.keep(prompts, memory_left(vlm.device, vlm.max_memory).host // 2)
        self._ready = True

    def _sums(self, forward: FirstTokenLogits, questions: Sequence[Question]) -> Tensor:
        """The `Sums` of some questions: float64 [7]."""
        total = torch.zeros(len(Sums._fields), dtype=torch.float64)
        for start in range(0, len(questions), CHUNK):
            part = questions[start : start + CHUNK]
            prompts = [prompt for question in part for prompt in wordings_of(question)]
            logits = first_token_logits(forward, self._frozen, prompts)
            total += torch.tensor(sums_of(self._frozen.vlm, part, logits, self._objective)).double()
        return total


class Sums(NamedTuple):
    """Sums over some questions, which processes add up."""

    questions: float
    """Number of questions."""
    ce: float
    """Sum over the questions of the cross-entropy [nats]."""
    kl: float
    """Sum over the questions of the divergence [nats]."""
    paired: float
    """Number of yes/no questions with a paraphrase."""
    flips: float
    """Number of those with a paraphrase that flips."""
    wordings: float
    """Number of wordings."""
    right: float
    """Number of wordings whose most probable first token is right."""


def draw(questions: Sequence[Question], count: int) -> list[Question]:
    """Up to `count` of the questions with an answer, drawn at random and sorted by image."""
    answered = [question for question in questions if question.true_answer is not None]
    chosen = np.random.default_rng(SEED).permutation(len(answered))[:count]
    return sorted((answered[i] for i in chosen), key=lambda question: question.image)


def wordings_of(question: Question) -> list[Prompt]:
    """The prompts of a question: its original, then its paraphrases of the same meaning, as in `prompt_table`."""
    texts = [question.question, *(paraphrase.text for paraphrase in question.same_meaning)]
    return [Prompt(question.image, text, question.closed) for text in texts]


def sums_of(vlm: Vlm, questions: Sequence[Question], logits: Tensor, objective: Objective) -> Sums:
    """The sums over some questions from the `logits` [wordings, vocabulary] of all of their wordings."""
    prompts = prompt_table(questions)
    pairs = pair_table(prompts)
    closed = pairs[prompts["closed"].to_numpy(bool)[pairs["original"]]]
    margin = answer_margin(logits, vlm.answers).double().cpu().numpy()
    flips = closed.assign(flipped=flipped(closed, margin)).groupby("question")["flipped"].any()
    cross_entropy, divergence = _losses(vlm, prompts, pairs, logits, objective)
    right = right_tokens(vlm.processor.tokenizer, prompts, logits.argmax(-1).cpu().numpy())
    counts = (len(questions), cross_entropy, divergence, len(flips), flips.sum(), len(prompts), right.sum())
    return Sums(*map(float, counts))


def _losses(
    vlm: Vlm, prompts: pd.DataFrame, pairs: pd.DataFrame, logits: Tensor, objective: Objective
) -> tuple[float, float]:
    """Sums over the questions of cross-entropy and divergence, each a mean over the paraphrases of a question."""
    originals = prompts.index[prompts["variant"] == 0]
    alone = originals[~originals.isin(pairs["original"])]
    # One item per pair, as a step has it, and one per question without a paraphrase.
    first = torch.tensor([*pairs["original"], *alone], device=logits.device)
    second = torch.tensor(pairs["paraphrase"].to_numpy(), device=logits.device, dtype=torch.long)
    targets = torch.tensor([first_answer_token(vlm.processor.tokenizer, answer) for answer in prompts["answer"]])
    closed = torch.tensor(prompts["closed"].to_numpy(bool))
    targets, closed = (each.to(logits.device)[first] for each in (targets, closed))
    paired = torch.arange(len(second), device=logits.device)
    losses = question_losses(logits[torch.cat([first, second])], paired, targets, closed, objective)
    share = 1 / first.bincount()[first]
    cross_entropy, divergence = (float((part * share).sum()) for part in losses[:2])
    return cross_entropy, divergence


def scores_of(epoch: int, held_out: bool, sums: Sums, settings: TrainSettings) -> EpochScores:
    """The scores of a sample from its sums over all processes."""
    # Without a question everything is undefined.
    n, paired, wordings = (count or math.nan for count in (sums.questions, sums.paired, sums.wordings))
    ce, kl = sums.ce / n, sums.kl / n
    return EpochScores(
        epoch,
        held_out,
        int(sums.questions),
        int(sums.paired),
        total_loss((ce, kl, 0.0), settings),
        ce,
        kl,
        sums.flips / paired,
        sums.right / wordings,
    )

"""The course of a training: one record per optimizer step, which is a row of history.csv, and scores by epoch."""

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from interp.schemas.adapter import EpochRecord, SampleScores
from interp.storage.json_files import significant


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


class EpochScores(NamedTuple):
    """How a sample of questions is answered after an epoch, in all wordings and without dropout."""

    epoch: int
    """Number of epochs that are finished; 0 before the first step, for the base."""
    held_out: bool
    """Whether the questions are of held-out patients; if not, the training teaches them."""
    questions: int
    """Number of questions."""
    paired: int
    """Number of yes/no questions with a paraphrase among them, of which flips are counted."""
    loss: float
    """Loss without a grounding term: answer weight x cross-entropy + consistency weight x divergence."""
    ce: float
    """Cross-entropy of the first answer token [nats]: for each question the mean over its paraphrases, any of which a
    step could have drawn."""
    kl: float
    """Divergence between the original wording and a paraphrase [nats], averaged likewise."""
    question_flip_rate: float
    """Share of the `paired` questions with a paraphrase that changes the sign of the answer margin; NaN if there are
    none."""
    first_token_accuracy: float
    """Share of all wordings whose most probable first token is that of the true answer, regardless of case."""

    @classmethod
    def of(cls, row: Sequence[float]) -> "EpochScores":
        """The scores from their fields as numbers, as a checkpoint holds them."""
        epoch, held_out, questions, paired, *rest = row
        return cls(int(epoch), bool(held_out), int(questions), int(paired), *rest)

    @property
    def sample(self) -> str:
        """Name of the sample: train or held_out."""
        return "held_out" if self.held_out else "train"

    def numbers(self) -> dict[str, float]:
        """Column of history.csv -> number: those of the scores, after the name of the sample."""
        return {f"{self.sample}_{name}": getattr(self, name) for name in SCORES}


SCORES = ("loss", "ce", "kl", "question_flip_rate", "first_token_accuracy")
"""The numbers of `EpochScores`."""


def history_table(history: Sequence[StepRecord], scores: Sequence[EpochScores]) -> pd.DataFrame:
    """history.csv: one row per step; the scores of an epoch stand in the row of its last step, after which they hold.

    The columns of the scores exist only if there are scores, and are empty in all other rows.
    """
    table = pd.DataFrame(history)
    last = table.groupby("epoch")["step"].idxmax()
    for each in scores:
        if each.epoch:
            for name, number in each.numbers().items():
                table.loc[last[each.epoch], name] = number
    return table


def by_epoch(history: Sequence[StepRecord], scores: Sequence[EpochScores]) -> list[EpochRecord]:
    """The course of a training by epoch: means over its steps, and the scores after it; from epoch 0 if it has any."""
    means = pd.DataFrame(history).groupby("epoch")[list(PARTS)].mean()
    samples = {(each.epoch, each.sample): _sample(each) for each in scores}
    return [
        EpochRecord(
            epoch=epoch,
            **{part: significant(float(means.at[epoch, part])) if epoch else None for part in PARTS},
            train=samples.get((epoch, "train")),
            held_out=samples.get((epoch, "held_out")),
        )
        for epoch in sorted({*means.index, *(each.epoch for each in scores)})
    ]


PARTS = ("loss", "ce", "kl", "grounding")
"""The loss of a step and its parts."""


def _sample(scores: EpochScores) -> SampleScores:
    numbers = {name: significant(getattr(scores, name)) for name in SCORES}
    return SampleScores(questions=scores.questions, paired=scores.paired, **numbers)

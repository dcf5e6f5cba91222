"""The course of a training by epoch (gatescope.json), to be set beside published figures."""

from interp.schemas.adapter import AdapterRecord, EpochRecord, SampleScores
from interp.views.numbers import PERCENT, Scale
from interp.views.table import Cell, Column, Table, blank, count, tabulate, value

NATS = Scale(1.0, 3)
"""Losses are shown with three decimals."""
SAMPLES = {"train": "training sample", "held_out": "held-out"}
"""Field of an epoch -> name of the sample in headings."""


def epochs_table(record: AdapterRecord) -> Table:
    """One row per epoch: the loss of its steps with its parts, then the scores of both samples after it."""
    epochs = record.epochs
    columns = [Column("epoch", lambda epoch: count(epoch.epoch)), _of_steps("loss", "loss")]
    columns += [_of_steps("cross-entropy", "ce"), _of_steps("divergence", "kl")]
    if any(epoch.grounding for epoch in epochs):
        columns.append(_of_steps("grounding", "grounding"))
    for sample, name in SAMPLES.items():
        if any(getattr(epoch, sample) for epoch in epochs):
            columns += [
                _of_sample(f"{name}: loss", sample, "loss", NATS),
                _of_sample(f"{name}: cross-entropy", sample, "ce", NATS, narrow=False),
                _of_sample(f"{name}: divergence", sample, "kl", NATS, narrow=False),
                _of_sample(f"{name}: question flips [%]", sample, "question_flip_rate", PERCENT),
                _of_sample(f"{name}: first token right [%]", sample, "first_token_accuracy", PERCENT),
            ]
    return tabulate("The training by epoch", columns, epochs, _note(record))


def _note(record: AdapterRecord) -> str:
    said = [
        "Loss, cross-entropy and divergence [nats] are means over the steps of an epoch, with dropout; the loss is the "
        "weighted sum of its parts."
    ]
    first = record.epochs[0] if record.epochs else None
    if first is not None and first.train is not None and first.held_out is not None:
        said.append(
            f"After each epoch and without dropout, {_sample(first.train)} of the training and "
            f"{_sample(first.held_out)} about patients of the evaluation were asked in all wordings; their loss is "
            "without a grounding term. A question flips if a paraphrase changes the answer. Epoch 0 is the base. "
            "Nothing was selected by these numbers."
        )
    return " ".join(said)


def _sample(scores: SampleScores) -> str:
    return f"{scores.questions:,} questions ({scores.paired:,} with yes or no and a paraphrase, which can flip)"


def _of_steps(heading: str, part: str) -> Column:
    def cell(epoch: EpochRecord) -> Cell:
        return value(getattr(epoch, part), NATS)

    return Column(heading, cell)


def _of_sample(heading: str, sample: str, name: str, scale: Scale, narrow: bool = True) -> Column:
    def cell(epoch: EpochRecord) -> Cell:
        scores = getattr(epoch, sample)
        return blank() if scores is None else value(getattr(scores, name), scale)

    return Column(heading, cell, narrow=narrow)

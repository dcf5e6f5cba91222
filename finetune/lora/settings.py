"""The settings of a training run: one declaration for the command line, for Python and for the record."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from interp.runtime.options import LARGEST_SEED, check_options, option

Grounding = Literal["none", "blank", "swap"]
"""What ties an adapter to the image: nothing, the blank image, or other patients' images (`finetune.training.loss`)."""

Schedule = Literal["cosine", "linear", "constant"]
"""The learning rate after the warm-up: a half cosine to zero, a line to zero, or the peak."""
Spelling = Literal["lower-case", "any"]
"""The first tokens that count as a taught answer: that of its lower case, or those of all of its spellings
(`finetune.training.loss.answer_loss`)."""
Wordings = Literal["both", "original"]
"""The wordings to which the true answer is taught: both of a step, or the original alone."""
Divergence = Literal["mean", "sum"]
"""Mean or sum of the KL divergences in both directions."""
Outcomes = Literal["vocabulary", "yes-no"]
"""The outcomes whose probabilities the divergence compares: all tokens, or yes and no, each in any spelling."""


LARGEST_BATCH = 10**6
"""Most questions of an optimizer step, more than any data set has."""


@dataclass(frozen=True)
class TrainSettings:
    """How an adapter is trained. Raises InputError for a value outside its range.

        >>> finetune.TrainSettings(rank=8, epochs=1).lr
        0.0002

    Rank, alpha, dropout, learning rate, batch size, epochs and the weight of the consistency term are by default those
    of the published targeted LoRA (arXiv 2603.00148, and the card of saillab/medgemma-4b-targeted-lora-mimic-mt-12k).
    No published text states the others: see `finetune.lora.recipe.UNPUBLISHED`.
    """

    rank: int = option(16, "Rank of the low-rank update of every projection.", min=1)
    alpha: int = option(32, "The update is scaled by alpha / rank.", min=1)
    dropout: float = option(0.05, "Dropout on the input of the update.", min=0, below=1)
    lr: float = option(2e-4, "Peak learning rate of AdamW.", above=0, max=1)
    batch_size: int = option(8, "Questions per optimizer step, each with one paraphrase.", min=1, max=LARGEST_BATCH)
    micro_batch_size: int | None = option(
        None,
        "Questions per forward pass. The result does not depend on it, except through dropout.",
        min=1,
        shown="as many as fit into GPU memory",
    )
    epochs: int = option(3, "Passes over the questions, each with new random paraphrases.", min=1)
    consistency_weight: float = option(
        1.0, "Weight of the divergence between the answers to two wordings; 0 trains on the true answers alone.", min=0
    )
    answer_weight: float = option(
        1.0,
        "Weight of the cross-entropy of the true answers; 0 trains on consistency alone, which any constant answer "
        "satisfies.",
        min=0,
        on_command_line=False,
    )
    answer_wordings: Wordings = option(
        "both",
        "Teach the true answer to both wordings of a step, or to the original alone, so that the consistency term has "
        "to carry it to the other.",
        advanced=True,
    )
    spelling: Spelling = option(
        "lower-case",
        'Spelling of the taught answers. lower-case: "yes", whatever the base says. any: the probabilities of "yes", '
        '"Yes" and " yes" are added, so that the model keeps its own spelling and no step is spent on it.',
        advanced=True,
    )
    divergence: Divergence = option(
        "mean",
        "Mean or sum of the KL divergences in both directions; the sum is twice the mean, as is a doubled "
        "--consistency-weight.",
        advanced=True,
    )
    divergence_over: Outcomes = option(
        "vocabulary",
        "Compare the probabilities of all first tokens, or of yes and no alone; open questions are always compared by "
        "all.",
        advanced=True,
    )
    grounding: Grounding = option(
        "none",
        "Extra loss term that ties yes/no answers to the image. blank: without the image, the answer should be "
        "undecided. swap: on another patient's image with the opposite answer, the answer should lean less towards the "
        "truth.",
    )
    grounding_weight: float = option(1.0, "Weight of the grounding term.", min=0)
    schedule: Schedule = option(
        "cosine",
        "Learning rate after the warm-up: a cosine or a line from its peak to zero, or constant.",
        advanced=True,
    )
    warmup_share: float = option(
        0.03,
        "Share of the steps in which the learning rate rises to its peak, linearly.",
        min=0,
        below=1,
        advanced=True,
    )
    weight_decay: float = option(0.01, "Weight decay of AdamW.", min=0, advanced=True)
    max_grad_norm: float = option(
        1.0, "Gradients are scaled down to this norm; 0 leaves them as they are.", min=0, advanced=True
    )
    validate: int = option(
        0,
        "After every epoch, ask this many questions of the training data, and as many of the held-out patients, in all "
        "wordings: loss, flips, first-token accuracy. It changes no weight.",
        min=0,
        shown="0: none",
    )
    seed: int = option(
        0,
        "Seed of the initial weights, the order of the questions, the choice of paraphrases and the dropout.",
        min=0,
        max=LARGEST_SEED,
    )

    def __post_init__(self) -> None:
        check_options(self)

    def determining(self) -> dict[str, Any]:
        """The settings that determine the adapter, with which a resumed or repeated training must agree.

        Settings of later versions that are at their defaults are left out, because earlier versions did the same.
        """
        return {
            name: value
            for name, value in asdict(self).items()
            if name not in WITHOUT_EFFECT and (name, value) not in LATER_SETTINGS.items()
        }


WITHOUT_EFFECT = ("micro_batch_size", "validate")
"""Settings that change no weight; the size of a pass does so only through the random numbers of the dropout."""
LATER_SETTINGS = {
    "answer_wordings": "both",
    "spelling": "lower-case",
    "divergence": "mean",
    "divergence_over": "vocabulary",
    "schedule": "cosine",
}
"""Settings that earlier versions lacked -> the values that describe what these did."""

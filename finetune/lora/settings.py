"""The settings of a training run: one declaration for the command line, for Python and for the record."""

from dataclasses import dataclass
from typing import Literal

from interp.runtime.options import check_options, option

Grounding = Literal["none", "blank", "swap"]
"""What ties an adapter to the image: nothing, the blank image, or other patients' images (`finetune.training.loss`)."""


@dataclass(frozen=True)
class TrainSettings:
    """How an adapter is trained. Raises InputError for a value outside its range.

    Rank, alpha, dropout, learning rate, batch size, epochs and the weight of the consistency term are by default those
    of the published targeted LoRA (arXiv 2603.00148, and the card of saillab/medgemma-4b-targeted-lora-mimic-mt-12k).
    No published text states the others: see `finetune.lora.recipe.UNPUBLISHED`.
    """

    rank: int = option(16, "Rank of the low-rank update of every projection.", min=1)
    alpha: int = option(32, "The update is scaled by alpha / rank.", min=1)
    dropout: float = option(0.05, "Dropout on the input of the update.", min=0, below=1)
    lr: float = option(2e-4, "Peak learning rate of AdamW.", above=0)
    batch_size: int = option(8, "Questions per optimizer step, each with one paraphrase.", min=1)
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
    grounding: Grounding = option(
        "none",
        "Extra loss term that ties yes/no answers to the image. blank: without the image, the answer should be "
        "undecided. swap: on another patient's image with the opposite answer, the answer should lean less towards the "
        "truth.",
    )
    grounding_weight: float = option(1.0, "Weight of the grounding term.", min=0)
    warmup_share: float = option(
        0.03,
        "Share of the steps in which the learning rate rises to its peak; a cosine then takes it to zero.",
        min=0,
        below=1,
        on_command_line=False,
    )
    weight_decay: float = option(0.01, "Weight decay of AdamW.", min=0, on_command_line=False)
    max_grad_norm: float = option(1.0, "Gradients are scaled down to this norm.", above=0, on_command_line=False)
    seed: int = option(
        0, "Seed of the initial weights, the order of the questions, the choice of paraphrases and the dropout.", min=0
    )

    def __post_init__(self) -> None:
        check_options(self)

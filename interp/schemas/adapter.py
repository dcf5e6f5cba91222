"""gatescope.json, the record that `finetune` writes into an adapter's folder."""

from typing import Any

from pydantic import ConfigDict, Field, field_validator

from interp.schemas.layers import ModelEntry, PromptEntry
from interp.schemas.record import Record
from interp.storage.provenance import Provenance


class SampleScores(Record):
    """How a sample of questions is answered after an epoch, in all wordings and without dropout."""

    model_config = ConfigDict(extra="forbid")
    questions: int = Field(description="number of questions in the sample")
    paired: int = Field(description="number of yes/no questions with a paraphrase among them, whose flips are counted")
    loss: float | None = Field(
        description="loss without a grounding term: answer weight x cross-entropy + consistency weight x divergence"
    )
    ce: float | None = Field(description="cross-entropy of the first answer token [nats]")
    kl: float | None = Field(description="divergence between the wordings [nats]")
    question_flip_rate: float | None = Field(
        description="share of the paired questions with a paraphrase that changes the answer; null without any"
    )
    first_token_accuracy: float | None = Field(
        description="share of all wordings whose most probable first token is that of the true answer"
    )


class EpochRecord(Record):
    """One epoch of a training, or, with number 0, the base before it."""

    model_config = ConfigDict(extra="forbid")
    epoch: int = Field(description="number of finished epochs; 0 before the first step")
    loss: float | None = Field(description="mean loss of the steps of the epoch, with dropout; null before the first")
    ce: float | None = Field(description="its cross-entropy [nats], before weighting")
    kl: float | None = Field(description="its divergence [nats], before weighting")
    grounding: float | None = Field(description="its grounding term, before weighting; 0 without one")
    train: SampleScores | None = Field(
        description="a sample of the training questions, after the epoch; null if none was asked"
    )
    held_out: SampleScores | None = Field(
        description="a sample of questions about held-out patients, after the epoch; null if none was asked"
    )


class AdapterRecord(Record):
    """The whole content of gatescope.json: where an adapter comes from. It contains no question, path or patient."""

    # It is published with the adapter, so nothing else may travel in it.
    model_config = ConfigDict(extra="forbid")
    schema_version: int = Field(default=1, description="version of this schema")
    model: ModelEntry = Field(description="the frozen base model")
    prompt: PromptEntry = Field(default=PromptEntry(), description="what stood around the questions")
    layers: list[int] = Field(description="decoder layers that were trained")
    layers_from: str = Field(description="what chose them: a file with its verdict and rule, or the command")
    settings: dict[str, Any] = Field(description="settings of the training, with its seed")
    recipe: dict[str, str] = Field(
        default_factory=dict,
        description="part of the training (optimizer, schedule, warmup, decay, clipping, loss, modules and others) -> "
        "what was done, in words; empty in older records",
    )
    unpublished: list[str] = Field(
        default_factory=list,
        description="parts of the recipe that no published text states, so this project chose them",
    )
    data: str = Field(description="hash of the training questions")
    questions: int = Field(description="number of training questions")
    paraphrases: int = Field(description="number of their paraphrases of the same meaning")
    patients: int = Field(description="number of training patients, or of images where patients are unknown")
    text_hashes: list[str] = Field(
        description="salted hashes of the training wordings (finetune.lora.seen_texts), ascending; empty when published"
    )
    steps: int = Field(description="number of optimizer steps")
    first_loss: float = Field(description="mean loss over the first tenth of the steps")
    last_loss: float = Field(description="mean loss over the last tenth of the steps")
    epochs: list[EpochRecord] = Field(
        default_factory=list, description="the course of the training by epoch; empty in older records"
    )
    trainable_parameters: int = Field(description="number of parameters of the adapter")
    seconds: float = Field(description="duration of the training [s]")
    software: dict[str, str] = Field(description="package -> version")
    provenance: Provenance | None = Field(
        default=None, description="command, commit, device and start; null where not recorded"
    )

    @field_validator("text_hashes")
    @classmethod
    def _one_salt(cls, hashes: list[str]) -> list[str]:
        # An entry is `salt$hash`. Every further salt costs another pass over the texts of an evaluation.
        if len({entry.rpartition("$")[0] for entry in hashes}) > 1:
            raise ValueError("hashes of more than one salt")
        return hashes

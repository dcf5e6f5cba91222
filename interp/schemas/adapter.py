"""gatescope.json, the record that `finetune` writes into an adapter's folder."""

from typing import Any

from pydantic import ConfigDict, Field, field_validator

from interp.schemas.layers import ModelEntry, PromptEntry
from interp.schemas.record import Record
from interp.storage.provenance import Provenance


class AdapterRecord(Record):
    """The whole content of gatescope.json: where an adapter comes from. It contains no question, path or patient."""

    # It is published with the adapter, so nothing else may travel in it.
    model_config = ConfigDict(extra="forbid")
    schema_version: int = Field(default=1, description="version of this schema")
    model: ModelEntry = Field(description="the frozen base model")
    prompt: PromptEntry = Field(default=PromptEntry(), description="what stood around the questions")
    layers: list[int] = Field(description="decoder layers that were trained")
    layers_from: str = Field(description="what chose them: a file and its rule, or the command")
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

"""gatescope.json, the record in an adapter folder."""

from typing import Any

from pydantic import Field

from interp.schemas.layers import ModelEntry, PromptEntry
from interp.schemas.read import Part
from interp.storage.provenance import Provenance


class AdapterRecord(Part):
    """gatescope.json: where an adapter comes from."""

    schema_version: int = Field(description="version of the schema")
    model: ModelEntry = Field(description="the frozen base")
    prompt: PromptEntry = Field(default=PromptEntry(), description="how the questions were put")
    layers: list[int] = Field(description="layers trained")
    layers_from: str = Field(description="what named them")
    settings: dict[str, Any] = Field(description="of the training")
    data: str = Field(description="fingerprint of the training questions")
    questions: int = Field(description="training questions")
    paraphrases: int = Field(description="their paraphrases")
    patients: int = Field(description="their patients")
    steps: int = Field(description="optimizer steps")
    first_loss: float | None = Field(description="mean over the first tenth of the steps")
    last_loss: float | None = Field(description="mean over the last tenth of the steps")
    trainable_parameters: int = Field(description="parameters of the adapter")
    seconds: float = Field(description="duration of the training")
    software: dict[str, str] = Field(description="versions")
    provenance: Provenance | None = Field(default=None, description="how it came about; null where not recorded")

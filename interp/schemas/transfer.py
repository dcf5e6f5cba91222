"""The result of `interp transfer-check`: how well SAEs trained on one model describe another."""

from pydantic import Field

from interp.schemas.layers import TransferVerdict
from interp.schemas.record import Record
from interp.storage.provenance import Provenance


class TransferEntry(Record):
    """The SAE of one layer on one kind of prompts."""

    prompts: str = Field(description="kind of the prompts: questions (with images), medical or general (text alone)")
    layer: int = Field(description="decoder layer")
    tokens: int = Field(description="number of text tokens measured")
    r2: float | None = Field(description="share of the variance over all tokens that the SAE explains")
    r2_low: float | None = Field(description="lower end of its 95% interval, over patients (or text prompts)")
    r2_high: float | None = Field(description="upper end of its 95% interval, over patients (or text prompts)")
    p: float | None = Field(description="one-sided p value against r2 <= r2_needed")
    verdict: TransferVerdict = Field(description="pass if the interval is above r2_needed, fail if below, else unclear")
    fvu: float | None = Field(description="fraction of variance unexplained, 1 - r2")
    l0: float | None = Field(description="mean number of active features per token")
    dead: float | None = Field(description="share of the features that are active on none of these tokens")
    drift: float | None = Field(
        description="cosine distance of the features' mean activations from the reference model's; null without one"
    )
    shift: float | None = Field(
        description="cosine distance of the mean activations from this model's own on the general prompts"
    )


class Transfer(Record):
    """The whole content of the file that `interp transfer-check --out` writes."""

    schema_version: int = Field(default=1, description="version of this schema")
    model: str = Field(description="hub id of the model measured, or name of the local folder")
    reference: str | None = Field(description="model that drift is measured from; null without one")
    r2_needed: float = Field(description="share of the variance that an SAE must explain to pass")
    seed: int = Field(description="seed given to the command")
    software: dict[str, str] = Field(description="package -> version")
    provenance: Provenance | None = Field(
        default=None, description="command, commit, device and start; null where not recorded"
    )
    layers: list[TransferEntry] = Field(description="one entry per kind of prompts and layer")

    def failed(self, kind: str) -> list[int]:
        """The layers whose SAE fails on one kind of prompts."""
        return [entry.layer for entry in self.layers if (entry.prompts, entry.verdict) == (kind, "fail")]

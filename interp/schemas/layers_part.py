"""The base class of layers.json and its parts."""

from pydantic import ConfigDict

from interp.schemas.record import Record


class LayersPart(Record):
    """layers.json or a part of it. Unlike other artifacts it has no unknown fields, since `finetune` trains by it."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=True)

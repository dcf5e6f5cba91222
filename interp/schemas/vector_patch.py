"""The patch of one vector a pair, as artifacts hold it (`interp.causal.vector_patching`)."""

from pydantic import Field

from interp.schemas.record import Interval, Record


class VectorPatchEntry(Record):
    """The patch of a vector that is no single feature, on banked flips."""

    recovery: Interval = Field(description="recovered share of the margin shift")
    net: Interval = Field(description="recovery minus that of random directions of the same norm")
    p: float | None = Field(description="p of net, sign-flip test over patients; not adjusted")
    direct: Interval = Field(description="recovery by the same vector added to the last layer's output")
    net_mediated: Interval = Field(description="recovery - direct, minus the same of random directions")
    p_mediated: float | None = Field(description="p of net_mediated, likewise")
    reversals: int = Field(description="number of flips whose original answer the patch restores")

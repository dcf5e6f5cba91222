"""What a feature stands for, by its weights and its activations: a part of study.json, without question text."""

from typing import Literal

from pydantic import Field

from interp.schemas.layers import SaeEntry
from interp.schemas.neuronpedia import NearestPage
from interp.schemas.record import Interval, Record

Grouping = Literal["register", "phenomenon", "finding", "position"]


class TokenEffect(Record):
    """What the feature's decoder row does to the logit of one token, read directly by the output layer."""

    token: str = Field(description="the token as the tokenizer writes it, a leading space as a space")
    logits: float = Field(description="what one activation unit adds to its logit through the final norm [logits]")


class Firing(Record):
    """How often and how strongly the feature is active in one group of wordings, or at one position of the prompt."""

    grouping: Grouping = Field(description="what is grouped: register, phenomenon, finding or position")
    group: str = Field(description="name of the group; positions count from the end, and final is the last token")
    wordings: int = Field(description="number of wordings in the group")
    patients: int = Field(description="number of patients, or of images where patients are unknown")
    active: Interval = Field(description="share of them on which the feature is active")
    mean: Interval = Field(description="mean activation, zeros included [activation units]")


class FeatureContent(Record):
    """What a feature stands for. The wordings themselves are in wordings.csv, if they were asked for."""

    synthetic: bool = Field(description="whether all questions are of the embedded world, whose texts may be shown")
    sae: SaeEntry | None = Field(description="suite, width, L0, commit and digest of the SAE; null where not known")
    promoted: list[TokenEffect] = Field(description="tokens whose logits the decoder row raises most, largest first")
    suppressed: list[TokenEffect] = Field(description="tokens whose logits it lowers most, lowest first")
    firing: list[Firing] = Field(description="activation at the final token by group, and by position in the prompt")
    nearest_page: NearestPage | None = Field(
        default=None, description="approximate page where there is no exact one; null where none was looked for"
    )

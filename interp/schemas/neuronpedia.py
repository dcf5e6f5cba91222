"""The page of a feature on Neuronpedia, or that of the most similar feature which has one."""

from pydantic import Field

from interp.schemas.record import Record

SITE = "https://www.neuronpedia.org"
"""Beginning of every address."""


class NearestPage(Record):
    """The feature of another SAE that has a page on Neuronpedia and the most similar decoder row: an approximation."""

    address: str = Field(description="address of its page")
    layer: int = Field(description="its decoder layer")
    feature: int = Field(description="index of the feature in that SAE")
    sae: str = Field(description="path of that SAE in its repository")
    cosine: float = Field(description="cosine of the two decoder rows; near 0 the page says nothing of this feature")

"""The page on Neuronpedia of the feature of another SAE that writes most alike."""

from interp.saes.sae import Sae, decoder_cosines
from interp.schemas.neuronpedia import SITE, NearestPage
from interp.storage.json_files import significant


def most_similar_page(sae: Sae, feature: int, other: Sae, pages: str, path: str) -> NearestPage:
    """The page of the feature of `other` whose decoder row has the largest cosine with that of `feature`.

    `pages` are the model and source of the pages of `other` on Neuronpedia, and `path` is its own in its repository.
    """
    cosine, index = decoder_cosines(other, sae.w_dec[feature]).max(0)
    return NearestPage(
        address=f"{SITE}/{pages}/{int(index)}",
        layer=other.layer,
        feature=int(index),
        sae=path,
        cosine=significant(float(cosine)),
    )

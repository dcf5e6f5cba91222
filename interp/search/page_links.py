"""Pages on Neuronpedia for the tested features of a search whose own SAEs have none, from SAEs of the same search."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from interp.saes.sae import load_sae
from interp.saes.similar_page import most_similar_page
from interp.schemas.layers import SaeEntry
from interp.schemas.tested_features import FeatureEntry


def with_pages(
    features: Sequence[FeatureEntry], sources: Sequence[SaeEntry], folders: Mapping[int, Path], d_model: int
) -> list[FeatureEntry]:
    """The features, each of a layer without pages with the most similar feature of the nearest layer with pages.

    `sources` are the SAEs of the search, and `folders` maps their layers to their folders. Only these are read, so a
    search whose SAEs have no pages at all leaves the features as they are.
    """
    paged = {entry.layer: (entry.neuronpedia, entry.folder) for entry in sources if entry.neuronpedia is not None}
    found = list(features)
    for layer in sorted({entry.layer for entry in features if paged} - set(paged)):
        nearest = min(paged, key=lambda each: (abs(each - layer), -each))
        own, other = (load_sae(folders[each], each, d_model) for each in (layer, nearest))
        for place, entry in enumerate(found):
            if entry.layer == layer:
                page = most_similar_page(own, entry.feature, other, *paged[nearest])
                found[place] = entry.model_copy(update={"nearest_page": page})
    return found

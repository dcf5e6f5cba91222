"""The figures of a search, whether it is in memory or on disk."""

import pandas as pd

from interp.schemas.layers import Layers
from interp.views.figures.margin import delta_against_margin
from interp.views.figures.profile import layer_profile, profile_frame
from interp.views.figures.register import activation_by_register
from interp.views.figures.style import Drawing


def search_drawings(artifact: Layers, pairs: pd.DataFrame | None, wordings: pd.DataFrame | None) -> list[Drawing]:
    """Every figure that there is data for.

    `pairs` is the `delta_frame` of the top feature, `wordings` its `register_frame`; None leaves out their figure.
    """
    found = [Drawing("layer_profile", profile_frame(artifact), lambda size: layer_profile(artifact, size=size))]
    if pairs is not None:
        found.append(Drawing("delta_margin", pairs, lambda size: delta_against_margin(pairs, size=size)))
    if wordings is not None:
        found.append(Drawing("register", wordings, lambda size: activation_by_register(wordings, size=size)))
    return found

"""The feature of another SAE that writes most alike, by the cosine of the decoder rows."""

import torch

from interp.saes.sae import Sae


def most_similar(sae: Sae, feature: int, other: Sae) -> tuple[int, float]:
    """The feature of another SAE whose decoder row is most similar to that of `feature`, and the cosine."""
    own = torch.nn.functional.normalize(sae.w_dec[feature].float(), dim=0)
    cosines = torch.cat([torch.nn.functional.normalize(part.float(), dim=1) @ own for part in other.w_dec.split(16384)])
    index = int(cosines.argmax())
    return index, float(cosines[index])

"""What an SAE leaves out: the part of the residual's change that is not in its dictionary, as a node of its own.

The original's residual minus the paraphrase's is split into what the SAE reconstructs of it, the sum of all feature
patches, and the rest, the SAE error (Marks et al., arXiv 2403.19647, treat it as a node of the circuit). Patched alone,
each shows how much of the margin shift it carries. A gate that reads the error cannot be found among the features.
"""

import pandas as pd
import torch
from torch import Tensor

from interp.saes.sae import Sae
from interp.screening.flips import sides

PARTS = ("whole", "features", "error")
"""The whole change, what the SAE's features reconstruct of it, and what they leave out."""


def split_shift(sae: Sae, residuals: Tensor, pairs: pd.DataFrame) -> Tensor:
    """x_q - x_p at the final token, in PARTS: float32 [n, 3, d_model] on the CPU. The last two add up to the first.

    `residuals` [n prompts, d_model] are those of the SAE's layer.
    """
    original, paraphrase = sides(pairs)
    device = sae.w_enc.device
    found = []
    for part in torch.arange(len(pairs)).split(128):
        before, after = (residuals[rows[part]].to(device).float() for rows in (original, paraphrase))
        delta = sae.encode(before) - sae.encode(after)
        # In float32, because the rounding of a narrower product would count as error; a copy of the whole decoder of
        # the widest SAEs would take gigabytes.
        moved = delta.any(0)
        whole, features = before - after, delta[:, moved] @ sae.w_dec[moved].float()
        found.append(torch.stack([whole, features, whole - features], 1).cpu())
    return torch.cat(found) if found else torch.zeros(0, len(PARTS), residuals.shape[-1])

"""What a planted neuron shall read: an amount of one direction at the final token, be it a feature or a relay's."""

from typing import NamedTuple

import torch
from torch import Tensor

from interp.saes.sae import Sae

RIVALS = 8
"""Features whose removal must leave what the neuron reads as it is: those that go with the feature most."""


class Signal(NamedTuple):
    """An amount of one direction in the final token's residual after a layer, on n wordings."""

    layer: int
    """Decoder layer."""
    own: Tensor
    """float32 [n]: the amount."""
    direction: Tensor
    """float32 [d_model]: what one unit of it adds to the residual."""
    rivals: Tensor
    """float32 [n, k]: amounts of other directions that go with it."""
    rival_directions: Tensor
    """float32 [k, d_model]: what one unit of each adds."""
    threshold: float = 0.0
    """Amount up to which a wording counts as one without the signal."""

    @property
    def on(self) -> Tensor:
        """bool [n]: the wordings that have it."""
        return self.own > self.threshold

    @property
    def level(self) -> Tensor:
        """float32 []: the median amount of the wordings that have it."""
        return self.own[self.on].median()


def feature_signal(sae: Sae, f: Tensor, feature: int) -> Signal:
    """A feature as a signal; `f` [n, d_sae] are the activations of its SAE at the final tokens."""
    centred = f - f.mean(0)
    r = (centred * centred[:, [feature]]).mean(0) / (f.std(0) * f.std(0)[feature] + 1e-6)
    r[feature] = 0
    rivals = r.abs().topk(min(RIVALS, len(r) - 1)).indices
    rows = sae.w_dec[torch.cat([torch.tensor([feature]), rivals]).to(sae.w_dec.device)].float().cpu()
    return Signal(sae.layer, f[:, feature], rows[0], f[:, rivals], rows[1:])


def interventions(signal: Signal, seed: int) -> list[tuple[Tensor | None, Tensor]]:
    """Edits after the signal's layer [n, d_model], each with the amount [n] that the neuron shall read.

    A neuron fitted to natural runs alone would read what merely goes with the signal. So the signal is also removed,
    put where it is absent, and left alone while those that go with it are removed.
    """
    rng = torch.Generator().manual_seed(seed)
    own, on = signal.own, signal.on
    lent = own[on][torch.randint(int(on.sum()), (len(own),), generator=rng)]
    put = torch.where(on, own, lent)
    removed = signal.rivals * (torch.rand(signal.rivals.shape, generator=rng) < 0.5)
    return [
        (None, own),
        (-own[:, None] * signal.direction, torch.zeros_like(own)),
        ((put - own)[:, None] * signal.direction, put),
        (-(removed @ signal.rival_directions), own),
    ]

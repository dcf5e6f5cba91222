"""Edits beside their random controls, each made when it is patched: all of them at once take gigabytes of copies."""

from typing import NamedTuple

import torch
from torch import Tensor

from interp.runtime.async_copies import to_device_async


class ControlledEdits(NamedTuple):
    """k edits of n pairs, for `interp.measurement.suffix_rerun.SuffixRerun`: multiples of vectors, and random ones."""

    size: Tensor
    """float32 [n, k]: the multiple of the vector, or the norm in the random direction."""
    source: Tensor
    """int64 [k]: which of the `vectors` an edit is a multiple of, or -1 - the place of its `noise`."""
    vectors: Tensor
    """float32 [n, v, d_model], or [1, v, d_model] if they are the same for every pair."""
    noise: Tensor
    """float32 [n, r, d_model]: random directions, of any length."""

    @property
    def shape(self) -> torch.Size:
        """n, k and d_model."""
        return torch.Size([*self.size.shape, self.noise.shape[2]])

    def of(self, rows: Tensor, edits: Tensor, device: torch.device) -> Tensor:
        """The edits int64 [k'] of the pairs int64 [m], on a device: float32 [m, k', d_model]."""
        size, source = to_device_async(self.size[rows][:, edits], device)[..., None], self.source[edits]
        found = torch.empty(*size.shape[:2], self.shape[2], device=device)
        given, drawn = (which.nonzero()[:, 0] for which in (source >= 0, source < 0))
        if len(given):
            vectors = self.vectors if len(self.vectors) == 1 else self.vectors[rows]
            there, chosen = (to_device_async(each, device) for each in (given, vectors[:, source[given]]))
            found[:, there] = chosen * size[:, there]
        if len(drawn):
            # Only once, because several edits have the same direction.
            parts = (drawn, self.noise[rows], -1 - source[drawn])
            there, noise, place = (to_device_async(each, device) for each in parts)
            length = noise.norm(dim=-1, keepdim=True)
            found[:, there] = noise[:, place].mul_(size[:, there]).div_(length[:, place])
        return found

    def tensors(self) -> dict[str, Tensor]:
        """What the edits follow from, by name."""
        return self._asdict()

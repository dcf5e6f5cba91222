"""The answer patch: of the difference between two wordings, only what looks like the difference of another image.

Two wordings of one question differ at the final token in their words, and, from some layer on, in the answer that is
being made. The wording alone does nothing until a layer turns it into an answer, so exchanging the whole residual
(`interp.causal.layer_patching`) restores the answer at every layer before that one too. Other images under the same
words change the answer and no word. So the directions in which other images move the final token are the directions of
the answer, and the *answer patch* exchanges a difference of wording in these directions only.

A direction k in which images move the residual with variance v_k passes with the gain v_k / (v_k + s), where s is the
mean variance per direction of differences of wording. This is the Wiener filter for the answer if these differences are
white noise. Early layers, which images hardly reach at the final token, therefore have no answer part.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp.causal.layer_patching import PatchTarget
from interp.runtime.async_copies import to_device_async

LEAST_GAIN = 0.01
"""Directions with a smaller gain are left out."""
TURNS = 3
"""Sets of random directions against which the answer patch is compared."""


class AnswerPatches(NamedTuple):
    """Effects of the answer patches of some layers on n pairs, positive towards m(q) [logits]."""

    answer: NDArray[np.float64]
    """[n, layers]: effect of the answer patch."""
    random: NDArray[np.float64]
    """[n, layers]: effect of the part along random directions with the same gains, mean over TURNS."""


class AnswerDirections(NamedTuple):
    """The directions in which other images move the final token after one layer, and how much of each passes."""

    basis: Tensor
    """float32 [k, d_model]: orthonormal directions."""
    gain: Tensor
    """float32 [k]: share of a difference along each direction that counts as answer, above LEAST_GAIN and below 1."""

    def part(self, delta: Tensor) -> Tensor:
        """The answer part of differences float32 [n, d_model], of the same shape."""
        basis, gain = self.basis.to(delta.device), self.gain.to(delta.device)
        return (delta @ basis.T * gain) @ basis

    def to(self, device: torch.device | str) -> "AnswerDirections":
        """The same on a device."""
        return AnswerDirections(*(tensor.to(device) for tensor in self))

    def turned(self, generator: torch.Generator) -> "AnswerDirections":
        """The control: as many random orthonormal directions with the same gains, on the same device."""
        drawn = torch.randn(self.basis.shape[1], len(self.gain), generator=generator).to(self.basis.device).double()
        # As the QR decomposition but for signs, which no edit depends on, and five times as fast on a GPU.
        factor, _ = torch.linalg.cholesky_ex(drawn.T @ drawn)
        basis = torch.linalg.solve_triangular(factor, drawn.T, upper=False)
        return AnswerDirections(basis.float(), self.gain)


def answer_directions(by_image: Tensor, by_wording: Tensor, device: torch.device | str = "cpu") -> AnswerDirections:
    """The answer directions of one layer.

    `by_image` float32 [n, d_model] are differences of residuals at the final token under the same words and two images,
    `by_wording` float32 [m, d_model] those under two wordings and the same image. The result is on `device`.
    """
    variance, axes = principal_axes(by_image.to(device))
    noise = float(by_wording.square().sum(1).mean()) / by_wording.shape[1] if len(by_wording) else 0.0
    gain = variance / (variance + noise).clamp_min(torch.finfo(variance.dtype).tiny)
    kept = gain > LEAST_GAIN
    return AnswerDirections(axes[kept], gain[kept])


def principal_axes(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squares along the principal axes of float32 [n, d], largest first: float32 [k], and the axes, [k, d].

    There are min(n, d). Those without any variance have a mean square of 0 and no direction.
    """
    n, d = x.shape
    wide = x.double()
    # On a GPU, a quarter of the time of a singular value decomposition.
    square, vectors = torch.linalg.eigh(wide @ wide.T if n < d else wide.T @ wide)
    square, vectors = square.flip(0), vectors.flip(1).T
    square = square * (square > torch.finfo(square.dtype).eps * len(square) * square.sum())
    axes = vectors @ wide / square.sqrt().clamp_min(torch.finfo(square.dtype).tiny)[:, None] if n < d else vectors
    return (square / max(1, n)).float(), axes.float()


class AnswerEdits(NamedTuple):
    """The answer parts of n differences at some layers and their controls, each of which is made when it is patched.

    All of them would take 1 + TURNS times the memory of the differences. The edits of one layer follow each other.
    """

    delta: Tensor
    """float32 [n, layers, d_model]: whole differences."""
    directions: Sequence[Sequence[AnswerDirections]]
    """[layers, 1 + TURNS]: the directions of every layer and its controls (`with_controls`)."""

    @property
    def shape(self) -> torch.Size:
        """n, the number of edits of each, and d_model."""
        n, layers, d_model = self.delta.shape
        return torch.Size([n, layers * (1 + TURNS), d_model])

    def of(self, rows: Tensor, edits: Tensor, device: torch.device) -> Tensor:
        """The edits int64 [k] of the differences int64 [m], on a device: float32 [m, k, d_model]."""
        parts = []
        for layer, of_layer in groupby(edits.tolist(), lambda edit: edit // (1 + TURNS)):
            delta = to_device_async(self.delta[rows, layer], device)
            parts += [self.directions[layer][edit % (1 + TURNS)].part(delta) for edit in of_layer]
        return torch.stack(parts, dim=1)

    def tensors(self) -> dict[str, Tensor]:
        """What the edits follow from, by name; controls follow from their layer's directions and seed."""
        made = {
            f"{name} {k}": getattr(own, name) for k, (own, *_) in enumerate(self.directions) for name in own._fields
        }
        return {"delta": self.delta, **made}


def with_controls(directions: AnswerDirections, seed: int) -> list[AnswerDirections]:
    """The directions of a layer and TURNS sets of random ones, on the same device."""
    generator = torch.Generator().manual_seed(seed)
    return [directions, *(directions.turned(generator) for _ in range(TURNS))]


def patch_answers(
    target: PatchTarget, delta: Tensor, directions: Sequence[Sequence[AnswerDirections]], layers: Sequence[int]
) -> AnswerPatches:
    """Apply the answer patch of every layer to every pair.

    `delta` float32 [n, layers, d_model] are the differences of the pairs after each layer, and `directions` those of
    every layer and its controls (`with_controls`).
    """
    places = [layer for layer in layers for _ in range(1 + TURNS)]
    edits = AnswerEdits(delta, directions)
    effects = target.effect(places, edits, "answer patches") * np.sign(target.shift)[:, None]
    by_layer = effects.reshape(len(effects), len(layers), 1 + TURNS)
    return AnswerPatches(by_layer[:, :, 0], by_layer[:, :, 1:].mean(2))

"""Which features are clamped, where and at what value: parsed from text and completed from the SAEs."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from interp.runtime.errors import InputError
from interp.saes.sae import Sae, load_sae

Where = Literal["final", "all"]
"""final: at the final prompt token only; all: at every text token but the first, the template's included."""


class ClampSpec(NamedTuple):
    """A feature to clamp, as the user asked for it."""

    layer: int
    """Decoder layer whose SAE has the feature."""
    feature: int
    """Index of the feature in its SAE."""
    value: float
    """Activation at which the feature is held; NaN stands for its mean until `fill_mean_values` has measured it."""


class Clamp(NamedTuple):
    """A feature that is held at a value, with its SAE parameters."""

    layer: int
    """Decoder layer whose output is changed."""
    feature: int
    """Index of the feature in its SAE."""
    w_enc: Tensor
    """Column of the encoder: float32 [d_model]."""
    b_enc: Tensor
    """Bias of the encoder: float32 []."""
    threshold: Tensor
    """JumpReLU threshold: float32 []; the feature is zero unless its pre-activation exceeds it."""
    w_dec: Tensor
    """Row of the decoder, the direction that the feature writes: float32 [d_model]."""
    value: float
    """Activation at which the feature is held; NaN stands for its mean until `fill_mean_values` has measured it."""
    where: Where
    """Tokens at which the feature is held."""
    sae: str
    """Id of the SAE, e.g. layer_17_width_16k_l0_medium."""

    def __repr__(self) -> str:
        return f"Clamp({self.layer}:{self.feature}={self.value:g} at {self.where} tokens, {self.sae})"

    def record(self) -> dict[str, Any]:
        """The clamp as a result records it: layer, feature, value, where and sae."""
        return {name: getattr(self, name) for name in ("layer", "feature", "value", "where", "sae")}


def parse_clamps(text: str) -> list[ClampSpec]:
    """Parse `17:3818`, `17:3818=12.5`, `17:3818=mean` or several of these, separated by commas.

    The value is 0 if it is left out. Raises InputError for any other text, for a value that is not finite, and for a
    feature that is named twice.
    """
    specs = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,4}):([0-9]{1,9})(?:=(.+))?", part)
        value = _parse_value(match[3] or "0") if match else None
        if match is None or value is None:
            raise InputError(
                f"--clamp {text!r}: {part.strip()!r} is not LAYER:FEATURE or LAYER:FEATURE=VALUE, with a number or "
                "mean as VALUE. Write 17:3818, or several as 17:3818,17:250=12.5."
            )
        specs.append(ClampSpec(int(match[1]), int(match[2]), value))
    named = [spec[:2] for spec in specs]
    for layer, feature in named:
        if named.count((layer, feature)) > 1:
            raise InputError(f"--clamp {text!r}: {layer}:{feature} is named twice. Name every feature once.")
    return specs


def _parse_value(text: str) -> float | None:
    """The number that a text stands for: NaN for mean, None for text that is not a finite number."""
    if text.strip() == "mean":
        return math.nan
    try:
        return value if math.isfinite(value := float(text)) else None
    except ValueError:
        return None


def load_clamps(
    specs: Sequence[ClampSpec], sae_of: Mapping[int, Path], d_model: int, device: torch.device | str, where: Where
) -> list[Clamp]:
    """Load the clamps of some features, in layer order, reading one SAE at a time.

    `sae_of` is layer -> SAE folder (`interp.saes.locate.locate_saes`). Raises InputError for a layer without an SAE,
    for a feature that its SAE lacks, and as `interp.saes.sae.load_sae` does.
    """
    clamps = []
    for layer in sorted({spec.layer for spec in specs}):
        if layer not in sae_of:
            raise InputError(
                f"--clamp: layer {layer} has no SAE. Layers with SAEs: {', '.join(map(str, sorted(sae_of)))}."
            )
        sae = load_sae(sae_of[layer], layer, d_model)
        for _, i, value in (spec for spec in specs if spec.layer == layer):
            if i >= sae.d_sae:
                raise InputError(f"--clamp {layer}:{i}: {sae.id} has features 0 to {sae.d_sae - 1}.")
            clamps.append(make_clamp(sae, i, value, where, device))
    return clamps


def make_clamp(sae: Sae, i: int, value: float, where: Where, device: torch.device | str) -> Clamp:
    """The clamp of feature `i` of an SAE at `value`, with copies of its parameters on `device`."""
    parts = (sae.w_enc[:, i], sae.b_enc[i], sae.threshold[i], sae.w_dec[i])
    # Cloned, because a view would keep the whole SAE in memory.
    w_enc, b_enc, threshold, w_dec = (part.clone().to(device) for part in parts)
    return Clamp(sae.layer, i, w_enc, b_enc, threshold, w_dec, value, where, sae.id)

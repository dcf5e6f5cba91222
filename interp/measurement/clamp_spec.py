"""Which features are clamped where, and at what value: parsed from text, loaded from SAEs."""

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
"""At the final prompt token only, or at every text token but the first, the template's among them."""


class ClampSpec(NamedTuple):
    """What the user asked to clamp."""

    layer: int
    """Decoder layer."""
    feature: int
    """Index into its SAE."""
    value: float
    """Activation that it is held at; NaN for its mean, which is yet to be measured (`with_means`)."""


class Clamp(NamedTuple):
    """One feature held at a value."""

    layer: int
    """Decoder layer whose output is changed."""
    feature: int
    """Index into its SAE."""
    w_enc: Tensor
    """float32 [d_model]: column of the encoder."""
    b_enc: Tensor
    """float32 []: bias of the encoder."""
    threshold: Tensor
    """float32 []: the feature is silent unless its pre-activation exceeds this."""
    w_dec: Tensor
    """float32 [d_model]: row of the decoder, the direction that the feature writes."""
    value: float
    """Activation that it is held at; NaN for its mean, which is yet to be measured (`with_means`)."""
    where: Where
    """The tokens at which it is held."""
    sae: str
    """Id of its SAE, e.g. layer_17_width_16k_l0_medium."""

    def record(self) -> dict[str, Any]:
        """What a result says of it: layer, feature, value, where and sae."""
        return {name: getattr(self, name) for name in ("layer", "feature", "value", "where", "sae")}


def parse_clamps(text: str) -> list[ClampSpec]:
    """What `17:3818`, `17:3818=12.5`, `17:3818=mean` or several of these with commas ask for; the value is 0 if absent.

    Raises InputError for any other text, for a value that is not finite, and for a feature that is named twice.
    """
    specs = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,4}):([0-9]{1,9})(?:=(.+))?", part)
        value = _parse_value(match[3] or "0") if match else None
        if match is None or value is None:
            raise InputError(
                f"--clamp {text!r}: {part.strip()!r} is not LAYER:FEATURE or LAYER:FEATURE=VALUE, with a number or "
                "mean as value. Write 17:3818, or several as 17:3818,17:250=12.5."
            )
        specs.append(ClampSpec(int(match[1]), int(match[2]), value))
    named = [spec[:2] for spec in specs]
    for layer, feature in named:
        if named.count((layer, feature)) > 1:
            raise InputError(f"--clamp {text!r}: {layer}:{feature} is named twice. Name every feature once.")
    return specs


def _parse_value(text: str) -> float | None:
    """NaN for mean, None for what is no finite number."""
    if text.strip() == "mean":
        return math.nan
    try:
        return value if math.isfinite(value := float(text)) else None
    except ValueError:
        return None


def load_clamps(
    specs: Sequence[ClampSpec], sae_of: Mapping[int, Path], d_model: int, device: torch.device | str, where: Where
) -> list[Clamp]:
    """The clamps of some features, layer by layer; only the SAEs of these layers are read, one is held at a time.

    `sae_of` is layer -> SAE folder (`interp.saes.locate.locate_saes`). Raises InputError for a layer without SAE, for
    a feature beyond its SAE, and as `interp.saes.sae.load_sae`.
    """
    clamps = []
    for layer in sorted({spec.layer for spec in specs}):
        if layer not in sae_of:
            raise InputError(f"--clamp: layer {layer} has no SAE. There are SAEs of layers {sorted(sae_of)}.")
        sae = load_sae(sae_of[layer], layer, d_model)
        for _, i, value in (spec for spec in specs if spec.layer == layer):
            if i >= sae.d_sae:
                raise InputError(f"--clamp {layer}:{i}: {sae.id} has features 0 to {sae.d_sae - 1}.")
            clamps.append(make_clamp(sae, i, value, where, device))
    return clamps


def make_clamp(sae: Sae, i: int, value: float, where: Where, device: torch.device | str) -> Clamp:
    parts = (sae.w_enc[:, i], sae.b_enc[i], sae.threshold[i], sae.w_dec[i])
    # Copies: a view would keep the whole SAE in memory.
    w_enc, b_enc, threshold, w_dec = (part.clone().to(device) for part in parts)
    return Clamp(sae.layer, i, w_enc, b_enc, threshold, w_dec, value, where, sae.id)

"""Feature clamps: hold single SAE features at a value while the model is measured, x' = x - (f - v) * W_dec.

The activation f is computed in float32 from the layer's unclamped output, and the change is added in float32, so that
neither the order of a layer's clamps nor the packing of prompts matters. Image tokens and <bos> are never changed.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from interp.measurement.clamp_spec import Clamp, make_clamp
from interp.measurement.margins import measure, text_residuals
from interp.model.packing import Batch
from interp.model.vlm import Vlm
from interp.runtime.errors import InputError
from interp.saes.sae import load_sae


def fill_mean_values(vlm: Vlm, prompts: pd.DataFrame, clamps: Sequence[Clamp]) -> list[Clamp]:
    """The clamps, with every NaN value replaced by the feature's mean activation in the model's present state.

    The mean is over the final tokens of a prompt table for clamps at final tokens, and else over the text tokens after
    the prefix that all its prompts share. Raises InputError for a layer that the model lacks, and for an SAE of another
    width.
    """
    _check_layers(vlm, clamps)
    means: dict[tuple[int, int, str], float] = {}
    unknown = [clamp for clamp in clamps if math.isnan(clamp.value)]
    for where in sorted({clamp.where for clamp in unknown}):
        held = [clamp for clamp in unknown if clamp.where == where]
        layers = sorted({clamp.layer for clamp in held})
        x = measure(vlm, prompts, layers).residuals if where == "final" else text_residuals(vlm, prompts, layers)[0]
        for clamp in held:
            f = _activations([clamp], x[:, layers.index(clamp.layer)].to(clamp.w_enc.device))
            means[clamp.layer, clamp.feature, where] = float(f.mean())
    return [clamp._replace(value=means.get((clamp.layer, clamp.feature, clamp.where), clamp.value)) for clamp in clamps]


def matched_clamps(
    vlm: Vlm, prompts: pd.DataFrame, clamps: Sequence[Clamp], sae_of: Mapping[int, Path], count: int
) -> list[list[Clamp]]:
    """Matched controls: up to `count` sets of clamps of other features in the same layers that are similarly active.

    Features are matched by their mean activation at the final tokens of a prompt table, on a log scale. Values other
    than zero are scaled by the ratio of the two means. Raises InputError as `interp.saes.sae.load_sae` does.
    """
    layers = sorted({clamp.layer for clamp in clamps})
    residuals = measure(vlm, prompts, layers).residuals
    chosen: list[list[Clamp]] = [[] for _ in range(count)]
    for layer in layers:
        sae = load_sae(sae_of[layer], layer, vlm.d_model, vlm.device)
        parts = residuals[:, layers.index(layer)].to(vlm.device).split(512)
        mean = torch.stack([sae.encode(part).sum(0) for part in parts]).sum(0) / len(prompts)
        taken = {clamp.feature for clamp in clamps if clamp.layer == layer}
        for clamp in (c for c in clamps if c.layer == layer):
            own = float(mean[clamp.feature])
            order = (mean.clamp_min(1e-9).log() - math.log(max(own, 1e-9))).abs().argsort().tolist()
            others = [i for i in order if i not in taken and mean[i] > 0][:count]
            taken |= set(others)
            for controls, i in zip(chosen, others, strict=False):
                value = clamp.value * float(mean[i]) / own if clamp.value and own else 0.0
                controls.append(make_clamp(sae, i, value, clamp.where, vlm.device))
    return [controls for controls in chosen if len(controls) == len(clamps)]


@contextmanager
def clamped(vlm: Vlm, clamps: Sequence[Clamp]) -> Iterator[None]:
    """While open, the model is measured with exactly these clamps and no others; training ignores them.

    Residuals are captured after the clamps of their layer, and edits are applied after them. Raises InputError for a
    layer that the model lacks.
    """
    _check_layers(vlm, clamps)
    layers = {clamp.layer for clamp in clamps}
    image_token = vlm.model.config.image_token_id
    before = vlm.output_hooks
    vlm.output_hooks = {
        layer: partial(_apply_clamps, clamps=[c for c in clamps if c.layer == layer], image_token=image_token)
        for layer in layers
    }
    try:
        yield
    finally:
        vlm.output_hooks = before


def _check_layers(vlm: Vlm, clamps: Sequence[Clamp]) -> None:
    for clamp in clamps:
        if len(clamp.w_dec) != vlm.d_model:
            raise InputError(
                f"--clamp {clamp.layer}:{clamp.feature}: {clamp.sae} is of width {len(clamp.w_dec)}, but a model here "
                f"has width {vlm.d_model}. Clamp features only in models of the SAE's width."
            )
        if clamp.layer >= vlm.n_layers:
            raise InputError(
                f"--clamp {clamp.layer}:{clamp.feature}: {vlm.name} has layers 0 to {vlm.n_layers - 1} only."
            )


def _apply_clamps(output: Tensor, batch: Batch, clamps: Sequence[Clamp], image_token: int) -> Tensor:
    """The output of a layer [B, S, d_model] with the layer's clamps applied."""
    final = torch.zeros_like(batch.input_ids, dtype=torch.bool)
    final[batch.final[:, 0], batch.final[:, 1]] = True
    # Padding has position 0, like <bos>.
    text = (batch.position_ids > 0) & (batch.input_ids != image_token)
    everywhere = torch.tensor([clamp.where == "all" for clamp in clamps], device=output.device)
    row, column = (text if everywhere.any() else final).nonzero(as_tuple=True)
    x = output[row, column].float()
    change = torch.tensor([clamp.value for clamp in clamps], device=output.device) - _activations(clamps, x)
    change = change * (everywhere | final[row, column][:, None])
    output = output.clone()
    output[row, column] = (x + change @ torch.stack([clamp.w_dec for clamp in clamps])).to(output.dtype)
    return output


def _activations(clamps: Sequence[Clamp], x: Tensor) -> Tensor:
    """Activations [n, number of clamps] of the clamped features of one layer on residuals [n, d_model]; all float32."""
    w_enc, b_enc, threshold = (torch.stack([getattr(c, n) for c in clamps]) for n in ("w_enc", "b_enc", "threshold"))
    z = x @ w_enc.T + b_enc
    return torch.relu(z) * (z > threshold)

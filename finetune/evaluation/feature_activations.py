"""Activations of SAE features on the questions of an evaluation, to foretell flips with."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from finetune.evaluation.answers import closed_originals
from interp.measurement.margins import measure
from interp.model.vlm import Vlm
from interp.runtime.errors import InputError
from interp.saes.locate import sae_of_layer
from interp.saes.sae import Sae, encode_features, load_sae
from interp.schemas.layers import read_layers
from interp.statistics import FloatArray


def found_features(path: Path, split: str) -> list[tuple[int, int]]:
    """The (layer, feature) that the search behind a layers.json, or its folder, tested.

    `split` is that of the evaluation.

    Raises InputError if the search used its patients, and if the file cannot be read or holds no feature.
    """
    layers = read_layers(path)
    if not layers.features:
        raise InputError(f"{path}: holds no features. Give the layers.json of a search that tested some.")
    if layers.data.split in ("all", split):
        raise InputError(
            f"{path}: its features were chosen on the split {layers.data.split!r}, so on patients of this evaluation, "
            "and would foretell flips better there than elsewhere. Search another split (--split), or evaluate another."
        )
    return [(entry.layer, entry.feature) for entry in layers.features]


def load_feature_saes(
    vlm: Vlm, features: Sequence[tuple[int, int]], sae_of: Mapping[int, Path]
) -> list[tuple[Sae, list[int]]]:
    """The SAE of every layer of some (layer, feature) with its features, from the folders `sae_of` (layer -> folder).

    Raises InputError for a layer without an SAE, and for features that the SAE or layers that the model does not have.
    """
    found = []
    for layer in sorted({layer for layer, _ in features}):
        if layer >= vlm.n_layers:
            raise InputError(
                f"--features-from: found layer {layer}, but {vlm.name} has layers 0 to {vlm.n_layers - 1}."
            )
        sae = load_sae(sae_of_layer(sae_of, layer, "--features-from"), layer, vlm.d_model, vlm.device)
        mine = [feature for place, feature in features if place == layer]
        if beyond := [feature for feature in mine if feature >= sae.d_sae]:
            raise InputError(
                f"--features-from: found feature {layer}:{beyond[0]}, but the SAE {sae.id} has features 0 to "
                f"{sae.d_sae - 1}. Name the SAEs of that search with --saes."
            )
        found.append((sae, mine))
    return found


def feature_activations(vlm: Vlm, prompts: pd.DataFrame, saes: Sequence[tuple[Sae, Sequence[int]]]) -> FloatArray:
    """Activations [n, features] at the final token of original wordings of closed questions; NaN in other rows.

    `saes` are those of `load_feature_saes`; columns go by layer. The model is asked in its present state.
    """
    rows = closed_originals(prompts)
    activation = np.full((len(prompts), sum(len(features) for _, features in saes)), np.nan)
    if not rows.any():
        return activation
    residuals = measure(vlm, prompts[rows], [sae.layer for sae, _ in saes], description="activations").residuals
    columns = [
        encode_features(sae, residuals[:, place], torch.tensor(features)) for place, (sae, features) in enumerate(saes)
    ]
    activation[rows] = torch.cat(columns, dim=1).double().numpy()
    return activation

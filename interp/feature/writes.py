"""The layers that write the answer, from patches of all layers on the flips that a feature is tested on."""

import numpy as np
import pandas as pd
import torch

from interp.causal.layer_patching import PatchTarget, patch_layers
from interp.measurement.margins import measure
from interp.model.vlm import Vlm
from interp.profile.profile import DRAWS
from interp.schemas.record import Interval
from interp.schemas.study import LayerWrite
from interp.screening.flips import sides
from interp.statistics import ratio_interval


def layer_writes(vlm: Vlm, prompts: pd.DataFrame, bank: PatchTarget, seed: int) -> list[LayerWrite]:
    """The net direct-effect patch of every layer of the model on the banked flips, as `layer_profile` measures it."""
    layers = list(range(vlm.n_layers))
    wanted, place = torch.cat(sides(bank.flips.pairs)).unique(return_inverse=True)
    own = prompts.iloc[wanted.numpy()].reset_index(drop=True)
    residuals = measure(vlm, own, layers, description="residuals of flips").residuals
    original, paraphrase = (residuals[rows] for rows in place.chunk(2))
    shift = original - paraphrase
    below = torch.cat([torch.zeros_like(shift[:, :1]), shift[:, :-1]], 1)
    patches = patch_layers(bank, shift, below, layers, seed)
    net = patches.along_shift(patches.write) - patches.along_shift(patches.random_write)
    size = np.abs(patches.shift)
    return [
        LayerWrite(layer=k, net_write=Interval.of(ratio_interval(net[:, k], size, bank.patients, seed, DRAWS)))
        for k in layers
    ]

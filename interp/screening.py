"""All that is asked of the SAEs of some layers, one SAE after the other; what several processes found is joined."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp.attribution import attribute
from interp.causal import joint_patch
from interp.features import SCREEN_COLUMNS, Flips, flip_score, screen_layer, sides
from interp.fit import Fit, Transfer, judge_transfer, reconstruct, summarize
from interp.processes import Team
from interp.progress import track
from interp.residuals import Residuals
from interp.saes import Sae
from interp.statistics import Estimate


class Screened(NamedTuple):
    """What the residuals of each of some layers say, and what its SAE says of them."""

    features: pd.DataFrame
    """Every feature that ever fires on the choosing half, columns as in SCREEN_COLUMNS, p values not yet adjusted."""
    scores: NDArray[np.float64]
    """[held-out pairs, layers]: how much the best features of the layer move (`flip_score`)."""
    joint: Tensor
    """float32 [banked pairs, layers, d_model]: the joint patch of the features that push most."""
    state: Tensor
    """float32 [banked pairs, layers, d_model]: the original's residual after the layer less the paraphrase's."""
    before: Tensor
    """The same before the layer."""
    fits: list[tuple[Fit, Transfer]]
    """How well the SAE describes the residuals."""
    saes: dict[int, str]
    """Layer -> id of its SAE."""


def screen_layers(
    load: Callable[[int], Sae],
    residuals: Residuals,
    layers: Sequence[int],
    prompts: pd.DataFrame,
    choice: Flips,
    taught: Flips,
    held_out: Flips,
    banked: Flips,
    gradients: Tensor,
    best_of: int,
    seed: int,
) -> Screened:
    """Features are chosen on `choice`, whose banked flips are `taught`, and scored on `held_out` and its `banked` ones.

    `gradients` [taught pairs, layers, d_model] are those of the margin at the paraphrases; `best_of` features of a
    layer are chosen, by flip AUC for the score and by attribution for the joint patch.
    """
    tables, fits, saes = [], [], {}
    scores = np.zeros((len(held_out.pairs), len(layers)))
    joint = torch.zeros(len(banked.pairs), len(layers), residuals.values.shape[2])
    for position, layer in enumerate(track(layers, "screening features")):
        sae, here = load(layer), residuals.after(layer)
        saes[layer] = sae.id
        table = screen_layer(sae, here, prompts, choice)
        predicted = attribute(sae, here, taught, gradients[:, position])
        table["attribution"] = predicted[table["feature"].to_numpy(np.int64)]
        best = table.nlargest(best_of, "flip_auc")
        if len(best):
            scores[:, position] = flip_score(sae, here, best, held_out)
        pushing = [int(f) for f in table.nlargest(best_of, "attribution")["feature"]]
        joint[:, position] = joint_patch(sae, here, banked.pairs, pushing)
        rebuilt = reconstruct(sae, here)
        fits.append((summarize(rebuilt), judge_transfer(rebuilt, prompts["patient"].tolist(), seed)))
        tables.append(table)
    state, before = (residuals.shift([layer + off for layer in layers], *sides(banked.pairs)) for off in (0, -1))
    return Screened(_stacked(tables), scores, joint, state, before, fits, saes)


def joined(own: Screened, team: Team) -> Screened:
    """The layers of all processes, by rank, at each of them."""
    if team.size == 1:
        return own
    tensors = team.tensors(
        {"scores": torch.from_numpy(own.scores), "joint": own.joint, "state": own.state, "before": own.before}
    )
    whole = {name: torch.cat([part[name] for part in tensors], dim=1) for name in tensors[0]}
    told = team.values((own.fits, list(own.saes.items())))
    return Screened(
        _stacked(team.frames(own.features)),
        whole["scores"].numpy(),
        whole["joint"],
        whole["state"],
        whole["before"],
        [(Fit(*fit), Transfer(Estimate(*r2), p, verdict)) for fits, _ in told for fit, (r2, p, verdict) in fits],
        {layer: name for _, saes in told for layer, name in saes},
    )


def _stacked(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Tables one below the other; empty ones would change the types of the columns."""
    filled = [table for table in tables if len(table)]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=list(SCREEN_COLUMNS))

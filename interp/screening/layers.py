"""All that is asked of the SAEs of some layers, one SAE after the other; what several processes found is joined."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp.measurement.residual_store import Residuals
from interp.runtime.distributed import Team
from interp.runtime.progress import track
from interp.saes.reconstruction import Fit, Transfer, judge_transfer, reconstruct, summarize
from interp.saes.sae import Sae
from interp.screening.attribution import attribute
from interp.screening.feature_stats import SCREEN_COLUMNS, flip_score, joint_patch, screen_layer
from interp.screening.flips import Flips, sides
from interp.statistics import Estimate
from interp.storage.checkpoint import NO_CHECKPOINT, Checkpoint, name_of


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
    checkpoint: Checkpoint = NO_CHECKPOINT,
) -> Screened:
    """Features are chosen on `choice`, whose banked flips are `taught`, and scored on `held_out` and its `banked` ones.

    `gradients` [taught pairs, layers, d_model] are those of the margin at the paraphrases; `best_of` features of a
    layer are chosen, by flip AUC for the score and by attribution for the joint patch. Layers in the `checkpoint` are
    not screened again.
    """

    margins = torch.from_numpy(
        np.concatenate([m for f in (choice, held_out) for m in (f.margin_before, f.margin_after)])
    )

    def screen(layer: int, slopes: Tensor) -> dict[str, Tensor]:
        sae, here = load(layer), residuals.after(layer)
        table = screen_layer(sae, here, prompts, choice)
        table["attribution"] = attribute(sae, here, taught, slopes)[table["feature"].to_numpy(np.int64)]
        best = table.nlargest(best_of, "flip_auc")
        score = flip_score(sae, here, best, held_out) if len(best) else np.zeros(len(held_out.pairs))
        pushing = [int(f) for f in table.nlargest(best_of, "attribution")["feature"]]
        rebuilt = reconstruct(sae, here)
        transfer = judge_transfer(rebuilt, prompts["patient"].tolist(), seed)
        joint = joint_patch(sae, here, banked.pairs, pushing)
        return _Layer(table, score, joint, summarize(rebuilt), transfer, sae.id).tensors()

    screened = list[_Layer]()
    for position, layer in enumerate(track(layers, "screening features")):
        slopes = gradients[:, position]
        name = name_of(f"layer-{layer:03d}", margins=margins, slopes=slopes) if checkpoint else ""
        screened.append(_Layer.of(checkpoint.once(name, partial(screen, layer, slopes))))
    state, before = (residuals.shift([layer + off for layer in layers], *sides(banked.pairs)) for off in (0, -1))
    return Screened(
        features=_stacked([found.features for found in screened]),
        scores=np.stack([found.score for found in screened], 1) if screened else np.zeros((len(held_out.pairs), 0)),
        joint=torch.stack([found.joint for found in screened], 1) if screened else state,
        state=state,
        before=before,
        fits=[(found.fit, found.transfer) for found in screened],
        saes={layer: found.sae for layer, found in zip(layers, screened, strict=True)},
    )


class _Layer(NamedTuple):
    """What `Screened` has of one layer."""

    features: pd.DataFrame
    """Every feature that ever fires on the choosing half."""
    score: NDArray[np.float64]
    """[held-out pairs]."""
    joint: Tensor
    """float32 [banked pairs, d_model]."""
    fit: Fit
    """How well the SAE describes the residuals."""
    transfer: Transfer
    """The same as a test."""
    sae: str
    """Its id."""

    def tensors(self) -> dict[str, Tensor]:
        """As it is kept: numbers as they are, the rest as JSON, which keeps every bit of a float."""
        said = json.dumps([self.fit, self.transfer, self.sae]).encode()
        columns = {f"features/{name}": torch.tensor(column.to_numpy()) for name, column in self.features.items()}
        beside = {"score": torch.from_numpy(self.score), "joint": self.joint}
        return columns | beside | {"said": torch.frombuffer(bytearray(said), dtype=torch.uint8)}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "_Layer":
        """From `tensors`."""
        fit, (r2, p, verdict), sae = json.loads(tensors["said"].numpy().tobytes())
        table = pd.DataFrame({name: tensors[f"features/{name}"].numpy() for name in SCREEN_COLUMNS})
        transfer = Transfer(Estimate(*r2), p, verdict)
        return cls(table, tensors["score"].numpy(), tensors["joint"], Fit(*fit), transfer, sae)


def joined(own: Screened, team: Team) -> Screened:
    """The layers of all processes, by rank, at each of them."""
    if team.size == 1:
        return own
    tensors = team.gather_tensors(
        {"scores": torch.from_numpy(own.scores), "joint": own.joint, "state": own.state, "before": own.before}
    )
    whole = {name: torch.cat([part[name] for part in tensors], dim=1) for name in tensors[0]}
    told = team.gather_values((own.fits, list(own.saes.items())))
    return Screened(
        _stacked(team.gather_frames(own.features)),
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

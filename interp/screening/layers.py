"""Screening layer by layer: everything that needs a layer's SAE and residuals, in one pass over the SAEs."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp.runtime.async_copies import to_device_async
from interp.runtime.distributed import Team
from interp.runtime.prefetch import map_beside
from interp.runtime.progress import track
from interp.saes.reconstruction import Fit, Transfer, judge_transfer, reconstruct, summarize
from interp.saes.sparse_codes import differences, encode_sparse
from interp.screening.attribution import attribute
from interp.screening.families import Family, best_family
from interp.screening.feature_stats import SCREEN_COLUMNS, ScreenedPairs, flip_score, joint_feature_patch, screen_layer
from interp.screening.flips import Halves, sides
from interp.screening.sae_inputs import SaeInputs
from interp.statistics import Estimate
from interp.storage.checkpoint import NO_CHECKPOINT, Checkpoint

PATCHES = ("feature_patch", "family_patch")
"""The patches of a screened layer that are kept with it."""
COPIED = 2**28
"""Largest residuals of a layer that are copied to the SAE's device as a whole [bytes], rather than for every use."""


class ScreenedLayers(NamedTuple):
    """What the residuals and SAEs of some layers give; the bank is the flip bank of the held-out half."""

    features: pd.DataFrame
    """Every feature that is ever active on the selection half: columns of SCREEN_COLUMNS, p values not yet adjusted."""
    scores: NDArray[np.float64]
    """[held-out pairs, layers]: how much the layer's chosen features change (`flip_score`)."""
    feature_patch: Tensor
    """float32 [bank, layers, d_model]: joint feature patch of the layer's features of highest attribution."""
    families: list[Family]
    """The family of each layer for which attribution predicts most; one without features where none is active."""
    family_patch: Tensor
    """float32 [bank, layers, d_model]: joint feature patches of the families."""
    fits: list[tuple[Fit, Transfer]]
    """How well each SAE describes the residuals, and whether that is good enough."""
    saes: dict[int, str]
    """Layer -> id of its SAE."""


@contextmanager
def screening_layers(
    layers: Sequence[int],
    inputs: SaeInputs,
    prompts: pd.DataFrame,
    halves: Halves,
    gradients: Tensor,
    on_path: Tensor,
    features_a_layer: int,
    checkpoint: Checkpoint = NO_CHECKPOINT,
) -> Iterator[Callable[[], ScreenedLayers]]:
    """Choose features on the selection half, and prepare their tests on the held-out half.

    Threads of `inputs` do so while it is open (`interp.runtime.prefetch.map_beside`), and the function that it gives
    waits for them. Without threads, it is done when it opens.

    `gradients` [selection bank, layers, d_model] are those of the margin at the paraphrases, `on_path` the means of
    those on the paths to the originals (`interp.screening.attribution.path_gradients`). `features_a_layer`
    features are chosen: by flip AUC for the score, by attribution for the joint feature patch. The family comes from
    `on_path` and the pairs of the selection half. Layers in the `checkpoint` are not screened again.
    """
    selection_bank, bank, patients = halves.selection_bank, halves.held_out_bank, prompts["patient"].tolist()
    screened_pairs, selected = ScreenedPairs.of(prompts, halves.selection, inputs.device), sides(halves.selection.pairs)
    margins = torch.from_numpy(np.concatenate([m for f in halves for m in (f.margin_before, f.margin_after)]))

    def screen(layer: int, slopes: Tensor, means: Tensor) -> dict[str, Tensor]:
        sae, residuals = inputs.at(layer)
        if residuals.numel() * residuals.element_size() <= COPIED:
            residuals = to_device_async(residuals, inputs.device)
        activations = encode_sparse(sae, residuals)
        codes, delta = activations.by_feature, differences(activations, *selected)
        table = screen_layer(layer, codes, delta, screened_pairs)
        predicted = attribute(sae, residuals, selection_bank, slopes, means)[:, table["feature"]]
        table["attribution"], table["path_attribution"] = predicted
        best = table.nlargest(features_a_layer, "flip_auc")
        held_out = halves.held_out
        score = flip_score(codes, best, held_out) if len(best) else np.zeros(len(held_out.pairs))
        attributed = [int(f) for f in table.nlargest(features_a_layer, "attribution")["feature"]]
        rebuilt = reconstruct(sae, residuals, activations=activations)
        transfer = judge_transfer(rebuilt, patients)
        family = best_family(sae, codes, delta, table.set_index("feature")["path_attribution"])
        patch, together = (joint_feature_patch(sae, codes, bank.pairs, each) for each in (attributed, family.features))
        return _ScreenedLayer(table, score, patch, together, family, summarize(rebuilt), transfer, sae.id).tensors()

    def checkpointed(position: int) -> _ScreenedLayer:
        layer, slopes, means = layers[position], gradients[:, position], on_path[:, position]
        given = {"margins": margins, "slopes": slopes, "means": means}
        return _ScreenedLayer.of(checkpoint.stage(f"layer-{layer:03d}", given, partial(screen, layer, slopes, means)))

    def whole() -> ScreenedLayers:
        screened = [next(results) for _ in track(range(len(layers)), "screening features")]
        # A process may have no layer of its own.
        no_patch = inputs.residuals.shift([], *sides(bank.pairs))
        return ScreenedLayers(
            features=_concatenated([found.features for found in screened]),
            scores=np.stack([found.score for found in screened], 1)
            if screened
            else np.zeros((len(halves.held_out.pairs), 0)),
            feature_patch=torch.stack([found.feature_patch for found in screened], 1) if screened else no_patch,
            families=[found.family for found in screened],
            family_patch=torch.stack([found.family_patch for found in screened], 1) if screened else no_patch,
            fits=[(found.fit, found.transfer) for found in screened],
            saes={layer: found.sae for layer, found in zip(layers, screened, strict=True)},
        )

    with map_beside(
        checkpointed, range(len(layers)), inputs.beside, partial(_take_own_stream, inputs.device)
    ) as results:
        if inputs.beside:
            yield whole
        else:
            # At once, so that a damaged SAE is found before anything else is computed.
            found = whole()
            yield lambda: found


def _take_own_stream(device: torch.device) -> None:
    """Let this thread wait for none of a GPU's work but its own.

    What it computes must be in main memory, and so complete, before another thread uses it or what it was made of.
    """
    if device.type == "cuda":
        own, begun = torch.cuda.Stream(device), torch.cuda.default_stream(device)
        # What all threads read was queued there.
        own.wait_stream(begun)
        torch.cuda.set_stream(own)


class _ScreenedLayer(NamedTuple):
    """What `ScreenedLayers` holds of one layer, apart from the residuals."""

    features: pd.DataFrame
    """Every feature that is ever active on the selection half."""
    score: NDArray[np.float64]
    """[held-out pairs]: how much the chosen features change."""
    feature_patch: Tensor
    """float32 [bank, d_model]: the joint feature patch."""
    family_patch: Tensor
    """float32 [bank, d_model]: that of the family."""
    family: Family
    """The family for which attribution predicts most."""
    fit: Fit
    """How well the SAE describes the residuals."""
    transfer: Transfer
    """Whether that is good enough."""
    sae: str
    """Id of the SAE."""

    def tensors(self) -> dict[str, Tensor]:
        """The form in a checkpoint: arrays as tensors, the rest as JSON, which keeps every bit of a float."""
        rest = json.dumps([self.fit, self.transfer, self.sae, self.family]).encode()
        columns = {f"features/{name}": torch.tensor(column.to_numpy()) for name, column in self.features.items()}
        patches = {name: getattr(self, name) for name in PATCHES}
        arrays = {"score": torch.from_numpy(self.score), **patches}
        return columns | arrays | {"rest": torch.frombuffer(bytearray(rest), dtype=torch.uint8)}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "_ScreenedLayer":
        """The inverse of `tensors`."""
        fit, (r2, p, verdict), sae, family = json.loads(tensors["rest"].numpy().tobytes())
        table = pd.DataFrame({name: tensors[f"features/{name}"].numpy() for name in SCREEN_COLUMNS})
        transfer = Transfer(Estimate(*r2), p, verdict)
        patch, together = (tensors[name] for name in PATCHES)
        return cls(table, tensors["score"].numpy(), patch, together, Family.of(family), Fit(*fit), transfer, sae)


def gather_layers(own: ScreenedLayers, team: Team) -> ScreenedLayers:
    """Collect the layers of all processes, in the order of their ranks, at each of them."""
    if team.size == 1:
        return own
    arrays = {"scores": torch.from_numpy(own.scores)} | {name: getattr(own, name) for name in PATCHES}
    parts = team.gather_tensors(arrays)
    whole = {name: torch.cat([part[name] for part in parts], dim=1) for name in parts[0]}
    values = team.gather_values((own.fits, list(own.saes.items()), own.families))
    return ScreenedLayers(
        features=_concatenated(team.gather_frames(own.features)),
        scores=whole.pop("scores").numpy(),
        **whole,
        fits=[
            (Fit(*fit), Transfer(Estimate(*r2), p, verdict)) for fits, *_ in values for fit, (r2, p, verdict) in fits
        ],
        families=[Family.of(family) for *_, families in values for family in families],
        saes={layer: name for _, saes, _ in values for layer, name in saes},
    )


def _concatenated(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Tables one below the other, without empty ones, which would change the types of the columns."""
    filled = [table for table in tables if len(table)]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=list(SCREEN_COLUMNS))

"""Edges of a feature: which earlier features make its change, and which later features change with it.

An edge is measured by an exact patch at the final token: the source's change f(p) - f(q) is undone, and the edge's
strength is the share of the target's own change that goes back with it. Later features are all read in one run. Of the
earlier ones, those that a gradient predicts to matter most are patched one by one. Attention to earlier tokens is part
of every run, but no edge starts there: a feature that arrives from question tokens has no earlier features here.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from interp.causal.edited_runs import edited_residuals
from interp.measurement.margins import load_batches, measure, pack_prompts
from interp.model.decoder import run_below
from interp.model.packing import batches
from interp.model.vlm import Vlm
from interp.saes.sae import Sae
from interp.screening.flips import Flips, sides
from interp.statistics import Estimate, ratio_interval

EARLIER = 10
"""Earlier features that are patched, over all layers."""
LATER = 3
"""Later features of every layer that are listed."""
GRADIENT_TOKENS = 2048
"""Most tokens of a batch for gradients, which need the activations of every layer."""


class Edge(NamedTuple):
    """The effect of one feature on another at the final token."""

    source: tuple[int, int]
    """Layer and feature whose change is undone."""
    target: tuple[int, int]
    """Layer and feature that is read."""
    predicted: float
    """The share as the gradient predicts it; NaN for later features, which need no prediction."""
    undone: Estimate
    """Share of the target's change that goes back, summed over the pairs."""


class _Middle(NamedTuple):
    """The feature whose edges are sought, and the pairs of wordings, measured at all layers that have an SAE."""

    vlm: Vlm
    """The model."""
    saes: Callable[[int], Sae]
    """Gives the SAE of a layer."""
    layers: list[int]
    """The layers with an SAE, ascending."""
    sae: Sae
    """The SAE of the feature."""
    feature: int
    """Its index."""
    paraphrases: pd.DataFrame
    """The prompt table of the paraphrases, one row a pair."""
    original: Tensor
    """float32 [n, layers, d_model]: residuals of the originals."""
    paraphrase: Tensor
    """float32 [n, layers, d_model]: those of the paraphrases."""
    patients: list[str]
    """[n]: the patient of each pair."""
    seed: int
    """Seed of the intervals."""

    @property
    def own(self) -> Tensor:
        """float32 [n]: f(q) - f(p) of the feature, what undoes its change."""
        here = self.layers.index(self.sae.layer)
        q, p = self.activations(self.sae, here)
        return q[:, self.feature] - p[:, self.feature]

    def activations(self, sae: Sae, place: int) -> tuple[Tensor, Tensor]:
        """float32 [n, d_sae] on the CPU: activations on the originals and on the paraphrases at `layers`[place]."""
        device = sae.w_enc.device
        q, p = (sae.encode(x[:, place].to(device)).cpu() for x in (self.original, self.paraphrase))
        return q, p

    def share(self, towards: Tensor, size: Tensor) -> Estimate:
        """Sum of `towards` [n] over the sum of `size` [n], with its interval over patients."""
        top, bottom = (each.double().numpy() for each in (towards, size))
        return ratio_interval(top, bottom, self.patients, self.seed)


def feature_edges(
    vlm: Vlm,
    prompts: pd.DataFrame,
    flips: Flips,
    saes: Callable[[int], Sae],
    layers: Sequence[int],
    sae: Sae,
    feature: int,
    seed: int,
) -> list[Edge]:
    """The edges to and from one feature of `sae` on the pairs of `flips`, strongest first; earlier features first.

    A feature whose activation is the same in both wordings of every pair has none. `layers` are those with an SAE,
    ascending, which `saes` gives; `prompts` is the whole prompt table.
    """
    known = list(layers)
    original, paraphrase = (prompts.iloc[rows.numpy()].reset_index(drop=True) for rows in sides(flips.pairs))
    before, after = (measure(vlm, rows, known, description="edges").residuals for rows in (original, paraphrase))
    patients = flips.pairs["patient"].tolist()
    middle = _Middle(vlm, saes, known, sae, feature, paraphrase, before, after, patients, seed)
    return _earlier(middle) + _later(middle)


def _later(middle: _Middle) -> list[Edge]:
    """The features of every later layer that go back most when the feature's change is undone."""
    sae, layers, own = middle.sae, middle.layers, middle.own
    later = [k for k, layer in enumerate(layers) if layer > sae.layer]
    if not later or not own.any():
        return []
    edit = own[:, None] * sae.w_dec[middle.feature].float().cpu()
    patched = edited_residuals(middle.vlm, middle.paraphrases, sae.layer, edit, [layers[k] for k in later])
    edges = []
    for i, k in enumerate(later):
        there = middle.saes(layers[k])
        q, p = middle.activations(there, k)
        moved = there.encode(patched[:, i].to(there.w_enc.device)).cpu()
        towards, size = (moved - p) * (q - p).sign(), (q - p).abs()
        # By what goes back in the residual, so that a tiny feature with a large share does not come first.
        effect = towards.sum(0) * there.w_dec.float().norm(dim=1).cpu()
        # What does not change has no share that could go back.
        for target in (i for i in effect.topk(LATER).indices.tolist() if size[:, i].any()):
            share = middle.share(towards[:, target], size[:, target])
            edges.append(Edge((sae.layer, middle.feature), (layers[k], target), float("nan"), share))
    return edges


def _earlier(middle: _Middle) -> list[Edge]:
    """The earlier features that a gradient proposes, those first whose undoing brings back most of the change."""
    sae, feature, layers, own = middle.sae, middle.feature, middle.layers, middle.own
    earlier = [k for k, layer in enumerate(layers) if layer < sae.layer]
    if not earlier or not own.any():
        return []
    slopes = _gradients(middle.vlm, middle.paraphrases, sae, feature, [layers[k] for k in earlier])
    proposed: list[tuple[float, int, int]] = []
    for i, k in enumerate(earlier):
        there = middle.saes(layers[k])
        q, p = middle.activations(there, k)
        slope = (slopes[:, i].to(there.w_dec.device, there.w_dec.dtype) @ there.w_dec.T).float().cpu()
        score = (own.sign()[:, None] * slope * (q - p)).sum(0) / own.abs().sum()
        top = score.abs().topk(EARLIER).indices.tolist()
        proposed += [(float(score[j]), k, j) for j in top]
    _, still = middle.activations(sae, layers.index(sae.layer))
    edges = []
    for predicted, k, source in sorted(proposed, key=lambda each: -abs(each[0]))[:EARLIER]:
        there = middle.saes(layers[k])
        q, p = middle.activations(there, k)
        edit = (q - p)[:, source, None] * there.w_dec[source].float().cpu()
        patched = edited_residuals(middle.vlm, middle.paraphrases, layers[k], edit, [sae.layer])[:, 0]
        moved = sae.encode(patched.to(sae.w_enc.device)).cpu()
        share = middle.share((moved - still)[:, feature] * own.sign(), own.abs())
        edges.append(Edge((layers[k], source), (sae.layer, feature), predicted, share))
    return sorted(edges, key=lambda edge: -edge.undone.value)


def _gradients(vlm: Vlm, prompts: pd.DataFrame, sae: Sae, feature: int, layers: Sequence[int]) -> Tensor:
    """d z/d x of the feature's pre-activation with respect to the final token after earlier layers.

    float32 [n, number of layers, d_model].
    """
    found = torch.zeros(len(prompts), len(layers), vlm.d_model)
    column = sae.w_enc[:, feature].float()
    kept: dict[int, Tensor] = {}

    def watch(layer: int) -> Callable[..., Tensor]:
        def hook(module: object, given: object, output: Tensor) -> Tensor:
            kept[layer] = output.detach().requires_grad_() if layer == layers[0] else output
            return kept[layer]

        return hook

    handles = [vlm.layers[layer].register_forward_hook(watch(layer)) for layer in layers]
    try:
        chunks = batches(pack_prompts(vlm, prompts), GRADIENT_TOKENS, vlm.device)
        for batch, images in load_batches(vlm, chunks, prompts, "edges"):
            with torch.enable_grad():
                hidden = run_below(vlm.model, batch, images, sae.layer + 1)
                row, place = batch.final.unbind(1)
                z = hidden[row, place].float() @ column.to(hidden.device)
                grads = torch.autograd.grad(z.sum(), [kept[layer] for layer in layers])
            for i, grad in enumerate(grads):
                found[torch.tensor(batch.prompts), i] = grad[row, place].float().cpu()
    finally:
        for handle in handles:
            handle.remove()
    return found

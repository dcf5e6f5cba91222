"""Attribution: one backward pass says what the delta patch of every feature of every layer would do, to first order.

The effect of a delta patch, m(x_p - delta_f * W_dec) - m(x_p), is -(dm/dx . W_dec) * delta_f where the margin is
straight in between (attribution patching, Nanda 2023; of features, Marks et al., arXiv 2403.19647). Where it is bent,
the gradient can be averaged over points on the way from the paraphrase's residual to the original's (integrated
gradients, Sundararajan et al., arXiv 1703.01365): the features' shares then add up to the whole shift, but they are
shares of the joint change, not what a patch of one feature does.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp.decoder import final_logits
from interp.features import Flips
from interp.prompts import answer_margin
from interp.saes import Sae
from interp.vlm import Vlm, encode_images, loaded_batches, rows_of


def margin_gradients(vlm: Vlm, prompts: pd.DataFrame, layers: Sequence[int], batch_tokens: int = 2048) -> Tensor:
    """dm/dx of the final-token residual after each layer: float32 [n, layers, d_model], in one backward pass a batch.

    `prompts` as for `interp.vlm.measure`. Activations of every layer are kept, so batches are small.
    """
    zero = torch.zeros(len(prompts), len(layers), vlm.d_model)
    return _gradients(vlm, prompts, zero, layers, False, batch_tokens)


def path_gradients(
    vlm: Vlm, prompts: pd.DataFrame, flips: Flips, residuals: Tensor, layer: int, steps: int, batch_tokens: int = 2048
) -> Tensor:
    """dm/dx after one layer, averaged over `steps` points between paraphrase and original: float32 [pairs, d_model].

    `residuals` [n prompts, d_model] are those of the layer. The points are the middles of `steps` equal parts.
    """
    original, paraphrase = (flips.pairs[name].to_numpy(np.int64, copy=True) for name in ("original", "paraphrase"))
    way = residuals[torch.from_numpy(original)] - residuals[torch.from_numpy(paraphrase)]
    points = (torch.arange(steps) + 0.5) / steps
    deltas = (way[:, None] * points[None, :, None]).flatten(0, 1)[:, None]
    rows = prompts.iloc[np.repeat(paraphrase, steps)][["image", "text", "closed"]]
    found = _gradients(vlm, rows, deltas, [layer], True, batch_tokens)
    return found.reshape(len(flips.pairs), steps, -1).mean(1)


def attribute(sae: Sae, residuals: Tensor, flips: Flips, gradients: Tensor) -> NDArray[np.float64]:
    """The recovery that the delta patch of every feature would have on these pairs, to first order: [d_sae]; 0 if none.

    `residuals` [n prompts, d_model] of the SAE's layer; `gradients` [pairs, d_model] at the paraphrases.
    """
    if not len(flips.pairs):
        return np.zeros(sae.d_sae)
    device = sae.w_enc.device
    sign = torch.from_numpy(np.sign(flips.margin_before - flips.margin_after)).float().to(device)
    score = torch.zeros(sae.d_sae, device=device)
    columns = [flips.pairs[name].to_numpy(np.int64, copy=True) for name in ("original", "paraphrase")]
    for part in torch.arange(len(flips.pairs)).split(128):
        before, after = (sae.encode(residuals[torch.from_numpy(column)[part]].to(device)) for column in columns)
        slope = (gradients[part].to(device, sae.w_dec.dtype) @ sae.w_dec.T).float()
        score += (sign[part.to(device), None] * slope * (before - after)).sum(0)
    return score.double().cpu().numpy() / np.abs(flips.margin_before - flips.margin_after).sum()


def _gradients(
    vlm: Vlm, prompts: pd.DataFrame, deltas: Tensor, layers: Sequence[int], by_text: bool, batch_tokens: int
) -> Tensor:
    """Gradients by `deltas` [n, k, d_model], added after the k layers."""
    encode_images(vlm, list(prompts["image"]))
    found = torch.empty_like(deltas)
    rows = rows_of(vlm, prompts, by_text)
    for batch, images in loaded_batches(vlm, rows, prompts, batch_tokens, "gradients"):
        index = torch.tensor(batch.prompts)
        probe = deltas[index].to(vlm.device).requires_grad_()
        with torch.enable_grad(), _added(vlm, batch.final, probe, layers):
            margin = answer_margin(final_logits(vlm.model, batch, images), vlm.answers)
            (gradient,) = torch.autograd.grad(margin.sum(), probe)
        found[index] = gradient.float().cpu()
    return found


@contextmanager
def _added(vlm: Vlm, places: Tensor, probe: Tensor, layers: Sequence[int]) -> Iterator[None]:
    """While open, `probe` [n, k, d_model] is added to the residuals at `places` after each of the k layers."""
    row, column = places[:, 0], places[:, 1]

    def hook(k: int) -> Any:
        def add(module: Any, inputs: Any, output: Tensor) -> Tensor:
            return output.index_put((row, column), (output[row, column].float() + probe[:, k]).to(output.dtype))

        return add

    handles = [vlm.layers[layer].register_forward_hook(hook(k)) for k, layer in enumerate(layers)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

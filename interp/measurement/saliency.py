"""Saliency maps of an image: attention, attention rollout, gradient times input and integrated gradients.

A map has one number per image token: [t, image tokens] for the t wordings put to one image, row-major on the token
grid. Gradient maps explain the margin m and are positive for evidence of yes; times the sign of m they explain the
answer.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from interp.measurement.occlusion import pack_wordings, variant_batches
from interp.model.decoder import final_logits, run_packed
from interp.model.memory_model import gradient_tokens
from interp.model.packing import Batch
from interp.model.prompts import answer_margin
from interp.model.room import room
from interp.model.vlm import Vlm
from interp.saes.sae import Sae

Target = Callable[[Batch, Tensor], Tensor]
"""A function of a packed batch and the image tokens of its rows that returns one number per prompt, [n]."""
INTEGRATION_STEPS = 16
"""Points on the path from the blank image to the image."""


class Attention(NamedTuple):
    """Attention from the final prompt token of each of t wordings to the image."""

    weights: Tensor
    """Attention weights: float32 [t, layers, heads, image tokens]."""
    rollout: Tensor
    """Attention rollout up to each layer: float32 [t, layers, image tokens]."""


@torch.no_grad()
def attention(
    vlm: Vlm, tokens: Tensor, texts: Sequence[str], closed: Sequence[bool], batch_tokens: int = 2048
) -> Attention:
    """Attention to one image's `tokens` [image tokens, d_model] at every layer.

    `texts` [t] are the wordings, and `closed` [t] marks yes/no questions. Rollout is the product of (A + I) / 2 over
    the layers, with A the mean over the heads (Abnar and Zuidema, arXiv 2005.00928, eq. 1). It estimates how much of
    each image token reaches the final token through attention alone.
    """
    heads = vlm.model.config.text_config.num_attention_heads
    weights = torch.empty(len(texts), vlm.n_layers, heads, len(tokens))
    rollout = torch.empty(len(texts), vlm.n_layers, len(tokens))
    for batch, images in variant_batches(vlm, pack_wordings(vlm, texts, closed), tokens[None], batch_tokens):
        weights[batch.prompts], rollout[batch.prompts] = _attention_of(vlm, batch, images)
    return Attention(weights, rollout)


def _attention_of(vlm: Vlm, batch: Batch, images: Tensor) -> Attention:
    """The attention of the n prompts of a batch."""
    row, column = batch.final.T
    is_image = batch.input_ids == vlm.model.config.image_token_id
    places = is_image.nonzero()[:, 1].reshape(len(is_image), -1)
    # Rollout from every position to every image token of its row: [B, S, image tokens].
    flow = torch.zeros(*is_image.shape, places.shape[1], device=places.device)
    flow.scatter_(1, places[:, None], 1.0)
    weights: list[Tensor] = []
    rollout: list[Tensor] = []

    def watch(attended: Tensor) -> None:
        flow.copy_((attended.float().mean(1) @ flow + flow) / 2)
        final = attended[row, :, column].float()
        weights.append(final.gather(2, places[row][:, None].expand(-1, final.shape[1], -1)).cpu())
        rollout.append(flow[row, column].cpu())

    with observe_attention(vlm, watch):
        run_packed(vlm.model, batch, images)
    return Attention(torch.stack(weights, 1), torch.stack(rollout, 1))


@contextmanager
def observe_attention(vlm: Vlm, watch: Callable[[Tensor], None]) -> Iterator[None]:
    """While open, call `watch` with the attention weights [B, heads, S, S] of each language-model layer in turn.

    Masks are made finite, because in eager attention a row of padding, which sees nothing, would otherwise be NaN.
    """
    decoder = vlm.model.model.language_model
    before = decoder.config._attn_implementation

    def finite(module: Any, inputs: Any, given: dict[str, Any]) -> Any:
        mask = given["attention_mask"]
        return inputs, given | {"attention_mask": mask.clamp(min=torch.finfo(mask.dtype).min)}

    blocks = [layer.self_attn for layer in vlm.layers]
    handles = [block.register_forward_pre_hook(finite, with_kwargs=True) for block in blocks]
    handles += [block.register_forward_hook(lambda module, inputs, output: watch(output[1])) for block in blocks]
    decoder.set_attn_implementation("eager")
    try:
        yield
    finally:
        decoder.set_attn_implementation(before)
        for handle in handles:
            handle.remove()


def gradient_maps(vlm: Vlm, tokens: Tensor, texts: Sequence[str], closed: Sequence[bool]) -> Tensor:
    """Gradient times input for one image's `tokens` [image tokens, d_model]: float32 [t, image tokens].

    It is the dot product of dm/dx and x for every image token x.
    """
    mean = _mean_gradient(vlm, tokens[None], texts, closed, _margin_target(vlm))
    return (mean * tokens.float().cpu()).sum(-1)


def integrated_gradient_maps(
    vlm: Vlm,
    tokens: Tensor,
    blank: Tensor,
    texts: Sequence[str],
    closed: Sequence[bool],
    steps: int = INTEGRATION_STEPS,
) -> Tensor:
    """Integrated gradients from a blank image's tokens `blank` to `tokens`, both [image tokens, d_model].

    The gradient is averaged over the midpoints of `steps` equal parts of the straight path and dotted with the whole
    path (Sundararajan et al., arXiv 1703.01365, eq. 3). With enough steps a map sums to m(image) - m(blank). The result
    is [t, image tokens].
    """
    start, path = blank.float(), tokens.float() - blank.float()
    points = (torch.arange(steps, device=path.device) + 0.5) / steps
    mean = _mean_gradient(vlm, start + points[:, None, None] * path, texts, closed, _margin_target(vlm))
    return (mean * path.cpu()).sum(-1)


def feature_maps(
    vlm: Vlm, tokens: Tensor, sae: Sae, feature: int, texts: Sequence[str], closed: Sequence[bool]
) -> Tensor:
    """`gradient_maps` of an SAE feature's pre-activation at the final prompt token instead of the margin."""

    def target(batch: Batch, images: Tensor) -> Tensor:
        captured: list[Tensor] = []
        handle = vlm.layers[sae.layer].register_forward_hook(lambda module, inputs, output: captured.append(output))
        try:
            run_packed(vlm.model, batch, images)
        finally:
            handle.remove()
        x = captured[0][batch.final[:, 0], batch.final[:, 1]].float()
        return x @ sae.w_enc[:, feature].to(x) + sae.b_enc[feature].to(x)

    mean = _mean_gradient(vlm, tokens[None], texts, closed, target)
    return (mean * tokens.float().cpu()).sum(-1)


def _margin_target(vlm: Vlm) -> Target:
    return lambda batch, images: answer_margin(final_logits(vlm.model, batch, images), vlm.answers)


def _mean_gradient(vlm: Vlm, points: Tensor, texts: Sequence[str], closed: Sequence[bool], target: Target) -> Tensor:
    """Mean gradient of `target` with respect to the image tokens over v points [v, image tokens, d_model].

    The result is float32 [t, image tokens, d_model]. Each wording has its own row, because on a shared image the
    gradients of all wordings would add up. Passes are as large as there is memory for.
    """
    tokens = gradient_tokens(*room(vlm))
    total = torch.zeros(len(texts), *points.shape[1:])
    for batch, images in variant_batches(vlm, pack_wordings(vlm, texts, closed, together=False), points, tokens):
        leaf = images.float().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(target(batch, leaf).sum(), leaf)
        total.index_add_(0, torch.tensor(batch.prompts) % len(texts), gradient.cpu())
    return total / len(points)

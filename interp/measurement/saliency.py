"""Maps that claim to show where a model looks: attention, rollout, gradients, integrated gradients.

Each is a number for every image token, [t, image tokens] for the t wordings put to one image, row-major on the token
grid. Gradient maps are of the margin m, positive for what speaks for yes; times the sign of m they are of the answer.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from interp.measurement.occlusion import pack_wordings, variant_batches
from interp.model.decoder import final_logits, run_packed
from interp.model.packing import Batch
from interp.model.prompts import answer_margin
from interp.model.vlm import Vlm
from interp.saes.sae import Sae

Target = Callable[[Batch, Tensor], Tensor]
"""A packed batch and the image tokens of its rows -> one number for each of its n prompts, [n]."""
INTEGRATION_STEPS = 16
"""Points on the way from the blank image to the image."""


class Attention(NamedTuple):
    """What the final prompt token of each of t wordings attends to in the image."""

    weights: Tensor
    """float32 [t, layers, heads, image tokens]: its attention weights."""
    rollout: Tensor
    """float32 [t, layers, image tokens]: attention rollout up to each layer."""


@torch.no_grad()
def attention(
    vlm: Vlm, tokens: Tensor, texts: Sequence[str], closed: Sequence[bool], batch_tokens: int = 2048
) -> Attention:
    """Attention on one image's `tokens` [image tokens, d_model], at every layer.

    Rollout is the product of (A + I) / 2 over the layers, A the mean over the heads (Abnar and Zuidema, arXiv
    2005.00928, eq. 1): how much of each image token has come to the final one if attention alone carried it.
    """
    heads = vlm.model.config.text_config.num_attention_heads
    weights = torch.empty(len(texts), vlm.n_layers, heads, len(tokens))
    rollout = torch.empty(len(texts), vlm.n_layers, len(tokens))
    for batch, images in variant_batches(vlm, pack_wordings(vlm, texts, closed), tokens[None], batch_tokens):
        weights[batch.prompts], rollout[batch.prompts] = _attention_of(vlm, batch, images)
    return Attention(weights, rollout)


def _attention_of(vlm: Vlm, batch: Batch, images: Tensor) -> Attention:
    """The attention of a batch's n prompts."""
    row, column = batch.final.T
    is_image = batch.input_ids == vlm.model.config.image_token_id
    places = is_image.nonzero()[:, 1].reshape(len(is_image), -1)
    # From every position to every image token of its row, [B, S, image tokens].
    flow = torch.zeros(*is_image.shape, places.shape[1], device=places.device)
    flow.scatter_(1, places[:, None], 1.0)
    weights: list[Tensor] = []
    rollout: list[Tensor] = []

    def watch(seen: Tensor) -> None:
        flow.copy_((seen.float().mean(1) @ flow + flow) / 2)
        final = seen[row, :, column].float()
        weights.append(final.gather(2, places[row][:, None].expand(-1, final.shape[1], -1)).cpu())
        rollout.append(flow[row, column].cpu())

    with observe_attention(vlm, watch):
        run_packed(vlm.model, batch, images)
    return Attention(torch.stack(weights, 1), torch.stack(rollout, 1))


@contextmanager
def observe_attention(vlm: Vlm, watch: Callable[[Tensor], None]) -> Iterator[None]:
    """While open, `watch` is given the attention weights [B, heads, S, S] of every layer of the language model in turn.

    Eager attention adds its mask to the scores, so that a boolean one would hide nothing: it is made additive.
    """
    decoder = vlm.model.model.language_model
    before = decoder.config._attn_implementation

    def additive(module: Any, inputs: Any, given: dict[str, Any]) -> Any:
        mask = given["attention_mask"]
        shut = torch.zeros(mask.shape, dtype=given["hidden_states"].dtype, device=mask.device)
        return inputs, given | {"attention_mask": shut.masked_fill(~mask, torch.finfo(shut.dtype).min)}

    blocks = [layer.self_attn for layer in vlm.layers]
    handles = [block.register_forward_pre_hook(additive, with_kwargs=True) for block in blocks]
    handles += [block.register_forward_hook(lambda module, inputs, output: watch(output[1])) for block in blocks]
    decoder.set_attn_implementation("eager")
    try:
        yield
    finally:
        decoder.set_attn_implementation(before)
        for handle in handles:
            handle.remove()


def gradient_maps(vlm: Vlm, tokens: Tensor, texts: Sequence[str], closed: Sequence[bool]) -> Tensor:
    """Gradient times input: (dm/dx . x) of every image token x of `tokens` [image tokens, d_model]."""
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

    The gradient is averaged over the middles of `steps` equal parts of the straight way, dotted with the whole way
    (Sundararajan et al., arXiv 1703.01365, eq. 3). With enough steps a map adds up to m(image) - m(blank).
    """
    start, way = blank.float(), tokens.float() - blank.float()
    points = (torch.arange(steps, device=way.device) + 0.5) / steps
    mean = _mean_gradient(vlm, start + points[:, None, None] * way, texts, closed, _margin_target(vlm))
    return (mean * way.cpu()).sum(-1)


def feature_maps(
    vlm: Vlm, tokens: Tensor, sae: Sae, feature: int, texts: Sequence[str], closed: Sequence[bool]
) -> Tensor:
    """Gradient times input of an SAE feature's pre-activation z at the final prompt token, in place of the margin."""

    def target(batch: Batch, images: Tensor) -> Tensor:
        caught: list[Tensor] = []
        handle = vlm.layers[sae.layer].register_forward_hook(lambda module, inputs, output: caught.append(output))
        try:
            run_packed(vlm.model, batch, images)
        finally:
            handle.remove()
        x = caught[0][batch.final[:, 0], batch.final[:, 1]].float()
        return x @ sae.w_enc[:, feature].to(x) + sae.b_enc[feature].to(x)

    mean = _mean_gradient(vlm, tokens[None], texts, closed, target)
    return (mean * tokens.float().cpu()).sum(-1)


def _margin_target(vlm: Vlm) -> Target:
    return lambda batch, images: answer_margin(final_logits(vlm.model, batch, images), vlm.answers)


def _mean_gradient(
    vlm: Vlm, points: Tensor, texts: Sequence[str], closed: Sequence[bool], target: Target, batch_tokens: int = 2048
) -> Tensor:
    """Gradient of `target` by the image tokens, mean over v points [v, image tokens, d_model]: float32 [t, ., .].

    Each wording has a row of its own: behind a shared image the gradients of all would add up.
    """
    total = torch.zeros(len(texts), *points.shape[1:])
    for batch, images in variant_batches(vlm, pack_wordings(vlm, texts, closed, together=False), points, batch_tokens):
        leaf = images.float().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(target(batch, leaf).sum(), leaf)
        total.index_add_(0, torch.tensor(batch.prompts) % len(texts), gradient.cpu())
    return total / len(points)

"""Fused GPU kernels for parts of Gemma 3 that transformers runs as many small kernels.

Triton kernels compute the decoder's norms with the residual sums beside them, the norms of queries and keys with their
rotary embeddings, its gated MLPs, and the vision tower's layer norms with the sum before them. The tower's MLPs and
patch embedding become matrix products.
"""

from importlib.util import find_spec
from types import MethodType
from typing import Any

import torch
from torch import Tensor


def fuse(model: Any) -> None:
    """Make parts of `model` run as one or two kernels each when their inputs are on a GPU, in place.

    Weights and transformers' classes are unchanged: the fused modules get a `forward` of their own, which falls back to
    the class's one on a CPU.
    """
    triton = find_spec("triton") is not None
    for module in model.modules():
        kind = type(module).__name__
        if kind == "SiglipMLP" and module.config.hidden_act == "gelu_pytorch_tanh":
            module.forward = MethodType(_tower_mlp, module)
        elif kind == "SiglipVisionEmbeddings":
            module.patch_embedding.forward = MethodType(_patches, module.patch_embedding)
        elif not triton:
            continue
        elif kind == "SiglipEncoderLayer":
            module.forward = MethodType(_tower_layer, module)
        elif kind == "Gemma3DecoderLayer":
            # A layer of a split model has accelerate's, which moves the layer's inputs to its GPU.
            if "forward" not in vars(module):
                module.forward = MethodType(_decoder_layer, module)
        elif kind == "Gemma3RMSNorm":
            module.forward = MethodType(_norm, module)
        elif kind == "Gemma3MLP" and module.config.hidden_activation == "gelu_pytorch_tanh":
            module.forward = MethodType(_gated, module)
        elif kind == "Gemma3Attention":
            module.forward = MethodType(_attention, module)


def _tower_mlp(module: Any, x: Tensor) -> Tensor:
    if not x.is_cuda or torch.is_grad_enabled() or type(module.fc1) is not torch.nn.Linear:
        return type(module).forward(module, x)
    # The matrix product itself adds the bias and applies the activation, in the tanh approximation that the tower uses.
    wide = torch._addmm_activation(module.fc1.bias, x.flatten(0, -2), module.fc1.weight.T, use_gelu=True)
    return module.fc2(wide.view(*x.shape[:-1], -1))


def _tower_layer(layer: Any, hidden_states: Tensor, attention_mask: Tensor | None = None, **options: Any) -> Tensor:
    if not hidden_states.is_cuda or torch.is_grad_enabled() or hidden_states.numel() == 0:
        return type(layer).forward(layer, hidden_states, attention_mask, **options)
    from interp.model.triton_kernels.layer_norm import layer_norm

    hidden, normed = layer_norm(hidden_states.contiguous(), layer.layer_norm1)
    attended, _ = layer.self_attn(hidden_states=normed, attention_mask=attention_mask, **options)
    hidden, normed = layer_norm(hidden, layer.layer_norm2, attended.contiguous())
    return hidden + layer.mlp(normed)


def _patches(convolution: Any, pixels: Tensor) -> Tensor:
    size = convolution.weight.shape[-1]
    if not pixels.is_cuda or any(side % size for side in pixels.shape[-2:]):
        return type(convolution).forward(convolution, pixels)
    # Patches do not overlap, so the convolution is a matrix product; cuDNN's convolution takes four times as long.
    batch, channels, height, width = pixels.shape
    cut = pixels.view(batch, channels, height // size, size, width // size, size).permute(0, 2, 4, 1, 3, 5)
    rows = cut.reshape(-1, channels * size * size)
    found = torch.addmm(convolution.bias, rows, convolution.weight.flatten(1).T)
    return found.view(batch, height // size, width // size, -1).permute(0, 3, 1, 2)


def _norm(module: Any, x: Tensor) -> Tensor:
    if not x.is_cuda or module.weight.requires_grad or x.numel() == 0:
        return type(module).forward(module, x)
    from interp.model.triton_kernels.norm import RmsNorm

    # Queries and keys arrive with heads and positions transposed; undoing that here avoids a copy.
    exchanged = x.dim() == 4 and not x.is_contiguous() and x.transpose(1, 2).is_contiguous()
    rows = x.transpose(1, 2) if exchanged else x.contiguous()
    # Triton launches on the current GPU, which may be another one if the model is split over several.
    with torch.cuda.device(x.device):
        y = RmsNorm.apply(rows, module.weight, module.eps)
    return y.transpose(1, 2) if exchanged else y


def _decoder_layer(layer: Any, hidden_states: Tensor, *positional: Any, **options: Any) -> Tensor:
    names = ("input", "post_attention", "pre_feedforward", "post_feedforward")
    first, written, read, last = (getattr(layer, f"{name}_layernorm") for name in names)
    plain = all(map(_is_plain, (first, written, read, last)))
    if positional or not plain or not hidden_states.is_cuda or hidden_states.numel() == 0:
        return type(layer).forward(layer, hidden_states, *positional, **options)
    hidden, normed = _add_normed(None, hidden_states, None, first)
    attended, _ = layer.self_attn(hidden_states=normed, **options)
    hidden, normed = _add_normed(attended, hidden, written, read)
    return _add_normed(layer.mlp(normed), hidden, last, None)[0]


def _is_plain(norm: Any) -> bool:
    """Whether nothing watches or trains a norm, which may then be a part of another kernel."""
    return type(norm).__name__ == "Gemma3RMSNorm" and not norm.weight.requires_grad and not is_watched(norm)


def is_watched(module: Any) -> bool:
    """Whether a module has hooks, which must see what passes there."""
    return any((module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks))


def _add_normed(x: Tensor | None, residual: Tensor, norm: Any, next_norm: Any) -> tuple[Tensor, Any]:
    """The sum of `residual` and `norm` of x, and `next_norm` of that sum: [..., d_model] each.

    Without x and `norm`, the sum is `residual`; without `next_norm`, the second result is None.
    """
    # Under a caller's autocast, products have another dtype than the residual stream.
    if x is not None and x.dtype != residual.dtype:
        total = residual + norm(x)
        return total, None if next_norm is None else next_norm(total)
    from interp.model.triton_kernels.residual_norm import ResidualNorm

    x = None if x is None else x.contiguous()
    weights = (None if part is None else part.weight for part in (norm, next_norm))
    with torch.cuda.device(residual.device):
        return ResidualNorm.apply(x, residual.contiguous(), *weights, (norm or next_norm).eps)


def _gated(module: Any, x: Tensor) -> Tensor:
    if not x.is_cuda or x.numel() == 0:
        return type(module).forward(module, x)
    from interp.model.triton_kernels.gelu import GatedGelu

    gate, up = module.gate_proj(x), module.up_proj(x)
    with torch.cuda.device(x.device):
        gated = GatedGelu.apply(gate.contiguous(), up.contiguous())
    return module.down_proj(gated)


def _attention(
    module: Any, hidden_states: Tensor, position_embeddings: Any = None, attention_mask: Any = None, **options: Any
) -> tuple[Tensor, Tensor | None]:
    plain = all(map(_is_plain, (module.q_norm, module.k_norm)))
    if not plain or not hidden_states.is_cuda or hidden_states.numel() == 0:
        options |= {"position_embeddings": position_embeddings, "attention_mask": attention_mask}
        return type(module).forward(module, hidden_states, **options)
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
    from transformers.models.gemma3.modeling_gemma3 import eager_attention_forward

    from interp.model.triton_kernels.rotary import RotatedHeads

    query, key, value = (part(hidden_states) for part in (module.q_proj, module.k_proj, module.v_proj))
    weights = module.q_norm.weight, module.k_norm.weight
    with torch.cuda.device(hidden_states.device):
        query, key = RotatedHeads.apply(query, key, *weights, *position_embeddings, module.q_norm.eps)
    value = value.unflatten(-1, (-1, module.head_dim)).transpose(1, 2)
    # The second name is that of transformers 5.24 and later.
    for name in ("past_key_values", "cache"):
        cache = options.pop(name, None)
        if cache is not None:
            key, value = cache.update(key, value, module.layer_idx)
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(module.config._attn_implementation, eager_attention_forward)
    dropout = module.attention_dropout if module.training else 0.0
    options |= {"dropout": dropout, "scaling": module.scaling, "sliding_window": module.sliding_window}
    found, seen = attend(module, query, key, value, attention_mask, **options)
    return module.o_proj(found.flatten(-2)), seen

"""LoRA's projections in fewer kernels: scale and sum are parts of the matrix products.

y = x Wᵀ + s · dropout(x) Aᵀ Bᵀ with rank r, frozen W, and trained A and B. peft multiplies an update as large as y by s
and adds it to the base's output in kernels of their own, and so again backwards. Here s is a factor of the small
products, and the large ones add to their results. In 16 bits on a GPU, dropout has kernels of its own
(`finetune.lora.seeded_dropout`): with the distribution of peft's, but other draws.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from finetune.lora.shared_inputs import Place, added_product, places_among_sharing, project_frozen, project_shared
from interp.model.fused import is_watched

if TYPE_CHECKING:
    from peft import PeftModel

MOST_RANK = 128
"""Highest rank whose factors our kernel of dropout holds in the fast memory of any GPU, half a kilobyte a rank."""


@contextmanager
def fused_updates(adapted: "PeftModel", active: bool = True) -> Iterator[None]:
    """While open and `active`, run the projections of an adapter in fewer kernels, with the gradients of peft's own.

    Frozen projections that share an input with others add to its gradient inside their products, too. Weights and
    autocast must stay as they are meanwhile. What this does not cover runs as before: several adapters or none, merged
    ones, variants such as DoRA, biases, quantized or hooked projections, and dtypes that peft converts. Second
    derivatives are not computed.
    """
    places = dict(places_among_sharing(adapted)) if active else {}
    modules = _covered_projections(adapted) if active else []
    for module, factors, seed in zip(modules, _factors(modules), _seeds(modules), strict=True):
        module.forward = partial(_forward, module, factors, seed, places.get(module))
    frozen = [module for module in places if _is_plain(module) and _is_frozen(module.weight)]
    for module in frozen:
        module.forward = partial(project_frozen, module, places[module])
    try:
        yield
    finally:
        for module in (*modules, *frozen):
            del module.forward


def _covered_projections(adapted: "PeftModel") -> list[Any]:
    from peft.tuners.lora import Linear

    return [module for module in adapted.modules() if type(module) is Linear and _covered(module)]


def _covered(module: Any) -> bool:
    """Whether `UpdatedProjection` computes what peft does for this projection."""
    if "forward" in vars(module) or module.disable_adapters or module.merged:
        return False
    base, names = module.base_layer, module.active_adapters
    if len(names) != 1 or names[0] not in module.lora_A or names[0] in module.lora_variant:
        return False
    parts: list[Any] = [part[names[0]] for part in (module.lora_A, module.lora_B, module.lora_dropout)]
    first, second, dropout = parts
    if not all(map(_is_plain, (base, first, second))) or not _is_known(dropout):
        return False
    return base.weight.dtype == _product_dtype(first.weight) and not base.weight.requires_grad


def _is_frozen(weight: Tensor) -> bool:
    """Whether a weight is not trained and has the dtype of its products."""
    return not weight.requires_grad and weight.dtype == _product_dtype(weight)


def _product_dtype(factor: Tensor) -> torch.dtype:
    """The dtype in which a factor of an update is multiplied."""
    device = factor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else factor.dtype


def _factors(modules: Sequence[Any]) -> list[tuple[Tensor, Tensor]]:
    """The factors A and B of each module's update in the dtype of its products, converted in a few kernels, not 70."""
    parts = [(module.active_adapters[0], (module.lora_A, module.lora_B)) for module in modules]
    own: list[Tensor] = [factor[name].weight.detach() for name, both in parts for factor in both]
    used = [torch.empty_like(factor, dtype=_product_dtype(factor)) for factor in own]
    if own:
        torch._foreach_copy_(used, own)
    return list(zip(used[::2], used[1::2], strict=True))


def _seeds(modules: Sequence[Any]) -> Sequence[Tensor | None]:
    """A seed int64 [] for the dropout of each module whose input our kernels can drop, else None.

    torch draws them on the GPU, so they are as reproducible as its own dropout, and new at every launch of a
    CUDA graph.
    """
    if not modules:
        return []
    weights = [module.base_layer.weight for module in modules]
    device = weights[0].device
    if device.type != "cuda" or find_spec("triton") is None:
        return [None] * len(modules)
    seeds = torch.randint(2**62, (len(modules),), device=device)
    ranks = [module.r[module.active_adapters[0]] for module in modules]
    # A model may be split over several GPUs.
    covered = (
        w.device == device and w.dtype.itemsize == 2 and w.shape[1] % 8 == 0 and rank <= MOST_RANK
        for w, rank in zip(weights, ranks, strict=True)
    )
    return [seed if is_covered else None for seed, is_covered in zip(seeds, covered, strict=True)]


def _forward(
    module: Any,
    factors: tuple[Tensor, Tensor],
    seed: Tensor | None,
    place: Place | None,
    x: Tensor,
    *args: Any,
    **options: Any,
) -> Tensor:
    weight = module.base_layer.weight
    if args or options or x.dtype != weight.dtype or x.dim() == 1 or x.numel() == 0:
        return type(module).forward(module, x, *args, **options)
    (name,) = module.active_adapters
    dropout = module.lora_dropout[name]
    share = dropout.p if dropout.training and isinstance(dropout, torch.nn.Dropout) else 0.0
    own = module.lora_A[name].weight, module.lora_B[name].weight
    rest = (weight, *own, *factors, module.scaling[name], share, seed if share else None)
    return project_shared(place, x, lambda x: UpdatedProjection.apply(x, *rest))


def _is_plain(part: Any) -> bool:
    """Whether a module is torch's own linear map, without a bias and without hooks."""
    return type(part) is torch.nn.Linear and part.bias is None and "forward" not in vars(part) and not is_watched(part)


def _is_known(dropout: Any) -> bool:
    """Whether a module is torch's own dropout of a part of its input, or none, without hooks."""
    of_a_part = type(dropout) is torch.nn.Dropout and dropout.p < 1
    return (of_a_part or type(dropout) is torch.nn.Identity) and not is_watched(dropout)


class UpdatedProjection(torch.autograd.Function):
    """x Wᵀ + scale · dropout(x) Aᵀ Bᵀ: x [..., in] -> [..., out], with gradients for x, A [r, in] and B [out, r].

    x itself is the second result; its gradient becomes a part of that of x, in place. W [out, in] is frozen. `a_used`
    and `b_used` are A and B in the dtype of x and W. `dropout` is the share of x that is dropped: with a `seed` int64
    [] by our kernels, else by torch.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,
        x: Tensor,
        w: Tensor,
        a: Tensor,
        b: Tensor,
        a_used: Tensor,
        b_used: Tensor,
        scale: float,
        dropout: float,
        seed: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        rows, kept = x.flatten(0, -2), None
        if seed is not None:
            from finetune.lora.seeded_dropout import dropped

            scale /= 1 - dropout
            seen = dropped(rows.contiguous(), seed, dropout)
        else:
            seen, kept = torch.native_dropout(rows, dropout, True) if dropout else (rows, None)
        low = _scaled(seen, a_used.T, scale)
        y = (low @ b_used.T).addmm_(rows, w.T)
        ctx.save_for_backward(seen, kept, low, w, a_used, b_used, seed)
        ctx.scale, ctx.dropout, ctx.dtypes = scale, dropout, (a.dtype, b.dtype)
        ctx.set_materialize_grads(False)
        return y.view(*x.shape[:-1], -1), x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        slope, passed = gradients
        if slope is None:
            # Before what is saved, which an earlier backward pass may have freed.
            return passed, *[None] * 8
        seen, kept, low, w, a_used, b_used, seed = ctx.saved_tensors
        dy = slope.flatten(0, -2)
        dlow = _scaled(dy, b_used, ctx.scale)
        da, db = _product(dlow.T, seen, ctx.dtypes[0]), _product(dy.T, low, ctx.dtypes[1])
        if not ctx.needs_input_grad[0]:
            return None, None, da, db, *[None] * 5
        dx = None if passed is None else passed.flatten(0, -2)
        if seed is not None:
            from finetune.lora.seeded_dropout import dropped_pull

            dx = dropped_pull(dlow, a_used, seed, ctx.dropout, dx)
        elif kept is None:
            dx = added_product(dx, dlow, a_used)
        else:
            pull = torch.ops.aten.native_dropout_backward(dlow @ a_used, kept, 1 / (1 - ctx.dropout))
            dx = pull if dx is None else dx.add_(pull)
        return added_product(dx, dy, w).view(*slope.shape[:-1], -1), None, da, db, *[None] * 5


def _scaled(first: Tensor, second: Tensor, scale: float) -> Tensor:
    """The product of two matrices, scaled in the same kernel."""
    # With beta = 0 the first argument is not read.
    return torch.addmm(first.new_empty(1, 1), first, second, beta=0, alpha=scale)


def _product(first: Tensor, second: Tensor, dtype: torch.dtype) -> Tensor:
    """The product of two matrices, added up in float32 and rounded to `dtype`."""
    if first.dtype == dtype:
        return first @ second
    # Without a kernel that rounds it first.
    return torch.mm(first, second, out_dtype=dtype) if first.is_cuda else (first @ second).to(dtype)

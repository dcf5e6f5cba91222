"""Projections that read the same tensor: each adds its part to the gradient of that tensor inside its product.

Otherwise autograd adds the gradients of queries, keys and values, and of gate and up projection, in kernels of their
own, which read and write three tensors as large as the residual stream. Here each projection also returns its input,
which the next one reads. So the gradient of that input comes to it, and it adds its own in place.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SHARING = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")
"""Names of the projections that read the same tensor, in the order in which they run."""


class Shared:
    """The input that some projections share, as the one that ran last has passed it on."""

    def __init__(self) -> None:
        self.given: Tensor | None = None
        """The input [..., in]; None if none of them has run."""
        self.passed: Tensor | None = None
        """The same numbers; their gradient goes to the projection that ran last."""


class Place(NamedTuple):
    """A projection among those that share its input."""

    shared: Shared
    """What they share."""
    last: bool
    """Whether no other follows."""


def places_among_sharing(model: torch.nn.Module) -> Iterator[tuple[Any, Place]]:
    """The projections of a model that share their input with others, each with its place among them."""
    for module in model.modules():
        for names in SHARING:
            # `getattr` raises an error for every name that a module lacks: 8 ms a pass in place of 2 for MedGemma-4B.
            group = [part for name in names if (part := module._modules.get(name)) is not None]
            shared = Shared()
            yield from ((part, Place(shared, part is group[-1])) for part in group)


def project_shared(place: Place | None, x: Tensor, project: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensor:
    """What a projection makes of x, which it shares with others if it has a `place` among them.

    `project` returns its result and x, and adds its gradient of x to that of the second result.
    """
    # Without a gradient of x, what is passed on would ask for one, or have none where the next projection needs it.
    if place is None or not (x.requires_grad and torch.is_grad_enabled()):
        return project(x)[0]
    shared = place.shared
    y, passed = project(shared.passed if shared.passed is not None and x is shared.given else x)
    shared.given, shared.passed = (None, None) if place.last else (x, passed)
    return y


def project_frozen(module: torch.nn.Linear, place: Place, x: Tensor, *args: Any, **options: Any) -> Tensor:
    """The forward pass of a linear map without a bias whose weight is frozen, at its place among those that share x."""
    if args or options or x.dtype != module.weight.dtype or x.dim() == 1 or x.numel() == 0:
        return type(module).forward(module, x, *args, **options)
    return project_shared(place, x, lambda x: FrozenProjection.apply(x, module.weight))


class FrozenProjection(torch.autograd.Function):
    """x Wᵀ and x itself, [..., in] -> [..., out] and [..., in]; the gradient of x becomes a part of x's, in place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        ctx.save_for_backward(w)
        ctx.set_materialize_grads(False)
        return torch.nn.functional.linear(x, w), x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None]:  # noqa: D102
        slope, passed = gradients
        if slope is None:
            # Before what is saved, which an earlier backward pass may have freed.
            return passed, None
        (w,) = ctx.saved_tensors
        dx = None if passed is None else passed.flatten(0, -2)
        return added_product(dx, slope.flatten(0, -2), w).view(*slope.shape[:-1], -1), None


def added_product(total: Tensor | None, first: Tensor, second: Tensor) -> Tensor:
    """The product of two matrices, added to `total` in place if that is given."""
    return first @ second if total is None else total.addmm_(first, second)

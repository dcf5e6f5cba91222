"""How many parameters go where: a rank for each layer and module, the same or by what each of them writes."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from interp.runtime.errors import InputError
from interp.schemas.layers import Module

if TYPE_CHECKING:
    from interp.schemas.layers import ModuleWeight

Modules = Literal["all", "attention", "mlp"]
"""Which projections of a layer are trained."""
Place = tuple[int, Module]
"""A decoder layer, and its attention or its MLP."""
Ranks = dict[Place, int]
"""The rank of every place that is trained, at least 1."""


def modules_of(which: Modules) -> tuple[Module, ...]:
    """The modules that a name stands for."""
    return get_args(Module) if which == "all" else (which,)


def uniform_ranks(layers: Sequence[int], rank: int, which: Modules = "all") -> Ranks:
    """The same rank everywhere."""
    return {(layer, module): rank for layer in layers for module in modules_of(which)}


def parameters_of(ranks: Ranks, a_rank: Mapping[Place, int]) -> int:
    """Parameters of an adapter; `a_rank` are those of one rank at each place."""
    return sum(rank * a_rank[place] for place, rank in ranks.items())


def matched_rank(places: Sequence[Place], a_rank: Mapping[Place, int], budget: int) -> int:
    """The rank for all `places` that brings their parameters closest to `budget`, at least 1."""
    return max(1, round(budget / sum(a_rank[place] for place in places)))


def weighted_ranks(weights: Mapping[Place, float], a_rank: Mapping[Place, int], budget: int) -> Ranks:
    """Whole ranks in proportion to weights, of about `budget` parameters in all; places left with 0 are absent.

    Of the proportions that give different ranks the one is taken whose parameters are closest to the budget. Raises
    InputError if no weight is above zero.
    """
    places = [place for place, weight in weights.items() if weight > 0]
    if not places:
        raise InputError("No layer or module has a weight above zero, so there is nothing to share ranks out by.")
    shares = np.array([weights[place] for place in places])
    cost = np.array([a_rank[place] for place in places])
    # Ranks step up where share * factor passes a half: between two such factors nothing changes.
    most = budget // cost.min() + 1
    factors = np.unique(((np.arange(most) + 0.5) / shares[:, None]).ravel())
    low, high = 0, len(factors)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if _at(factors[middle], shares) @ cost <= budget else (low, middle)
    around = [_at(factors[i], shares) for i in (low - 1, low) if 0 <= i < len(factors)]
    ranks = min((r for r in around if r.any()), key=lambda r: abs(int(r @ cost) - budget))
    return {place: int(rank) for place, rank in zip(places, ranks, strict=True) if rank > 0}


def _at(factor: float, shares: np.ndarray) -> np.ndarray:
    """Ranks at a factor: whole from each half on."""
    return np.floor(shares * factor * (1 + 1e-12) + 0.5).astype(np.int64)


def weights_at(weights: Sequence["ModuleWeight"], layers: Sequence[int], which: Modules = "all") -> dict[Place, float]:
    """The weights of a layers.json in some layers and modules; what it does not name has none."""
    wanted = set(layers)
    return {
        (entry.layer, entry.module): entry.weight
        for entry in weights
        if entry.layer in wanted and entry.module in modules_of(which)
    }

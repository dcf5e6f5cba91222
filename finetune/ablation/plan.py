"""The arms of an ablation: which layers are trained, at which rank, with which loss."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

import numpy as np

from finetune.lora.ranks import (
    Modules,
    Place,
    Ranks,
    matched_rank,
    parameters_of,
    uniform_ranks,
    weighted_ranks,
    weights_at,
)
from finetune.lora.settings import TrainSettings
from interp.runtime.errors import InputError
from interp.schemas.layer_list import layers_text
from interp.schemas.layers import ModuleWeight

Kind = Literal[
    "chosen",
    "window",
    "third",
    "random",
    "all",
    "all-matched",
    "attention",
    "mlp",
    "weighted",
    "weighted-all",
    "no-consistency",
    "consistency-only",
]
"""chosen: the range itself. window: another run of as many layers. third: early, middle or late third of the layers.
random: as many layers at random. all, all-matched: every layer, at the same rank or with as many parameters. attention,
mlp: the chosen range's projections of one kind, with as many parameters. weighted, weighted-all: the chosen range or
every layer with ranks by what each module writes, with as many parameters. no-consistency, consistency-only: the chosen
range with half of the loss."""
KINDS: tuple[Kind, ...] = get_args(Kind)
THIRDS = ("early", "middle", "late")
DEFAULT_TRAINING = TrainSettings()
TRIES = 1000
"""Draws for a set of layers that is no arm yet, before there are taken to be none left."""


@dataclass(frozen=True)
class AblationSettings:
    """How an ablation is made. Raises InputError for a value outside its range."""

    training: TrainSettings = DEFAULT_TRAINING
    """Of every arm, but for its rank, alpha, weights and seed."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds that every arm is trained with."""
    kinds: tuple[str, ...] = KINDS
    """What is set beside the chosen range, which is always trained."""
    stride: int = 1
    """Layers from one window to the next."""
    random: int = 2
    """Random sets of layers."""
    seed: int = 0
    """Of random sets, swapped images, noise, bootstrap, halves and permutations."""

    def __post_init__(self) -> None:
        if not self.seeds or min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise InputError(f"seeds are {list(self.seeds)}, expected different ones of at least 0.")
        for name, least in {"stride": 1, "random": 0, "seed": 0}.items():
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}, expected at least {least}.")
        unknown = sorted(set(self.kinds) - set(KINDS))
        if unknown:
            raise InputError(f"--arms {', '.join(unknown)}: expected some of {', '.join(KINDS)}.")


class Planned(NamedTuple):
    """One arm before it is trained; all of its seeds."""

    kind: Kind
    """Why it is there."""
    name: str
    """As tables call it, unique."""
    ranks: Ranks
    """Rank of every layer and module that is trained."""
    parameters: int
    """Of its adapter."""
    training: TrainSettings
    """How it is trained; the seed is that of the run."""

    @property
    def layers(self) -> tuple[int, ...]:
        """Decoder layers that are trained, ascending."""
        return tuple(sorted({layer for layer, _ in self.ranks}))

    @property
    def uniform(self) -> bool:
        """Whether all projections of its layers have the rank of its training."""
        return self.ranks == uniform_ranks(self.layers, self.training.rank)

    @property
    def contiguous(self) -> bool:
        """Whether the layers are one run."""
        return self.layers[-1] - self.layers[0] + 1 == len(self.layers)


def plan_arms(
    chosen: Sequence[int],
    a_rank: Mapping[Place, int],
    settings: AblationSettings,
    weights: Sequence[ModuleWeight] = (),
) -> list[Planned]:
    """Every arm of an ablation, the chosen range first; `a_rank` as `finetune.lora.modules.parameters_a_rank`.

    An arm of other layers or modules has the rank that brings its parameters closest to those of the chosen range, at
    least 1; its alpha keeps alpha / rank, to the next integer. Fewer random sets than asked for are planned where there
    are no more that are no arm already; the weighted arms only where there are `weights`, those of a layers.json.
    """
    layers, width, training = tuple(chosen), len(chosen), settings.training
    everything = tuple(sorted({layer for layer, _ in a_rank}))
    budget = parameters_of(uniform_ranks(layers, training.rank), a_rank)

    def planned(kind: Kind, name: str, ranks: Ranks, training: TrainSettings = training) -> Planned:
        return Planned(kind, name, ranks, parameters_of(ranks, a_rank), training)

    def arm(kind: Kind, name: str, layers: Sequence[int], training: TrainSettings = training) -> Planned:
        return planned(kind, name, uniform_ranks(layers, training.rank), training)

    def matched(kind: Kind, name: str, layers: Sequence[int], modules: Modules = "all") -> Planned:
        rank = matched_rank(list(uniform_ranks(layers, 1, modules)), a_rank, budget)
        alpha = max(1, round(rank * training.alpha / training.rank))
        return planned(kind, name, uniform_ranks(layers, rank, modules), replace(training, rank=rank, alpha=alpha))

    windows = [everything[first : first + width] for first in range(0, len(everything) - width + 1, settings.stride)]
    found = [arm("chosen", f"chosen {layers_text(layers)}", layers)]
    found += [arm("window", f"window {layers_text(window)}", window) for window in windows if window != layers]
    thirds = [part.tolist() for part in np.array_split(everything, len(THIRDS))]
    found += [
        matched("third", f"{name} third {layers_text(part)}", part)
        for name, part in zip(THIRDS, thirds, strict=True)
        if part
    ]
    sets = random_sets(width, len(everything), settings.random, [layers, *windows], settings.seed)
    found += [arm("random", f"random {layers_text(each)}", each) for each in sets]
    found.append(arm("all", "all layers", everything))
    found.append(matched("all-matched", "all layers, as many parameters", everything))
    found.append(matched("attention", "chosen, attention alone", layers, "attention"))
    found.append(matched("mlp", "chosen, MLP alone", layers, "mlp"))
    by_weight: list[tuple[Kind, str, Sequence[int]]] = [
        ("weighted", "chosen, ranks by weight", layers),
        ("weighted-all", "all layers, ranks by weight", everything),
    ]
    for kind, name, where in by_weight:
        at = weights_at(weights, where)
        if any(weight > 0 for weight in at.values()):
            found.append(planned(kind, name, weighted_ranks(at, a_rank, budget)))
    found.append(arm("no-consistency", "chosen, answers alone", layers, replace(training, consistency_weight=0.0)))
    found.append(arm("consistency-only", "chosen, consistency alone", layers, replace(training, answer_weight=0.0)))
    return [each for each in found if each.kind == "chosen" or each.kind in settings.kinds]


def ranks_entry(arm: Planned) -> dict[str, int]:
    """The ranks of an arm as JSON has them: 4.mlp -> 16."""
    return {f"{layer}.{module}": rank for (layer, module), rank in sorted(arm.ranks.items())}


def random_sets(
    size: int, n_layers: int, count: int, taken: Sequence[tuple[int, ...]], seed: int
) -> list[tuple[int, ...]]:
    """Up to `count` different sets of `size` layers, none of them among `taken`, ascending."""
    rng = np.random.default_rng([seed, 23])
    found: list[tuple[int, ...]] = []
    for _ in range(TRIES):
        if len(found) == count:
            break
        drawn = tuple(sorted(rng.choice(n_layers, size, replace=False).tolist()))
        if drawn not in taken and drawn not in found:
            found.append(drawn)
    return found

"""The arms of an ablation: which layers are trained, at which rank, with which loss."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from finetune.lora import target_pattern
from finetune.settings import TrainSettings
from interp.errors import InputError
from interp.layers import layers_text

Kind = Literal["chosen", "window", "third", "random", "all", "all-matched", "no-consistency", "consistency-only"]
"""chosen: the range itself. window: another run of as many layers. third: early, middle or late third of the layers.
random: as many layers at random. all, all-matched: every layer, at the same rank or with as many parameters.
no-consistency, consistency-only: the chosen range with half of the loss."""
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
    layers: tuple[int, ...]
    """Decoder layers that are trained, ascending."""
    parameters: int
    """Of its adapter."""
    training: TrainSettings
    """How it is trained; the seed is that of the run."""

    @property
    def contiguous(self) -> bool:
        """Whether the layers are one run."""
        return self.layers[-1] - self.layers[0] + 1 == len(self.layers)


def parameters_a_rank(model: Any) -> list[int]:
    """[layers] parameters of an adapter of rank 1 on each decoder layer: inputs + outputs of all its projections."""
    count = len(model.model.language_model.layers)
    found = [0] * count
    pattern = re.compile(target_pattern(range(count)))
    for name, module in model.named_modules():
        match = pattern.fullmatch(name)
        if match:
            found[int(match.group(1))] += module.in_features + module.out_features
    return found


def plan_arms(chosen: Sequence[int], a_rank: Sequence[int], settings: AblationSettings) -> list[Planned]:
    """Every arm of an ablation, the chosen range first; `a_rank` [layers] as `parameters_a_rank`.

    An arm of another number of layers has the rank that brings its parameters closest to those of the chosen range, at
    least 1; its alpha keeps alpha / rank, to the next integer. Fewer random sets than asked for are planned where there
    are no more that are no arm already.
    """
    layers, width, training = tuple(chosen), len(chosen), settings.training
    everything = tuple(range(len(a_rank)))
    budget = training.rank * sum(a_rank[layer] for layer in layers)

    def arm(kind: Kind, name: str, layers: Sequence[int], training: TrainSettings = training) -> Planned:
        return Planned(kind, name, tuple(layers), training.rank * sum(a_rank[layer] for layer in layers), training)

    def matched(kind: Kind, name: str, layers: Sequence[int]) -> Planned:
        rank = max(1, round(budget / sum(a_rank[layer] for layer in layers)))
        alpha = max(1, round(rank * training.alpha / training.rank))
        return arm(kind, name, layers, replace(training, rank=rank, alpha=alpha))

    windows = [everything[first : first + width] for first in range(0, len(everything) - width + 1, settings.stride)]
    planned = [arm("chosen", f"chosen {layers_text(layers)}", layers)]
    planned += [arm("window", f"window {layers_text(window)}", window) for window in windows if window != layers]
    thirds = [part.tolist() for part in np.array_split(everything, len(THIRDS))]
    planned += [
        matched("third", f"{name} third {layers_text(part)}", part)
        for name, part in zip(THIRDS, thirds, strict=True)
        if part
    ]
    sets = random_sets(width, len(everything), settings.random, [layers, *windows], settings.seed)
    planned += [arm("random", f"random {layers_text(each)}", each) for each in sets]
    planned.append(arm("all", "all layers", everything))
    planned.append(matched("all-matched", "all layers, as many parameters", everything))
    planned.append(arm("no-consistency", "chosen, answers alone", layers, replace(training, consistency_weight=0.0)))
    planned.append(arm("consistency-only", "chosen, consistency alone", layers, replace(training, answer_weight=0.0)))
    return [each for each in planned if each.kind == "chosen" or each.kind in settings.kinds]


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

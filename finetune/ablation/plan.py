"""The arms of an ablation: which layers each one trains, at which rank and with which loss."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from finetune.ablation.settings import ARM_KINDS, AblationSettings, ArmKind
from finetune.lora.settings import TrainSettings
from interp.runtime.errors import InputError
from interp.schemas.layer_list import layers_text
from interp.schemas.layers import GateEntry

THIRDS = ("early", "middle", "late")
GATE_KINDS: tuple[ArmKind, ...] = ("feature-to-writer", "writers")
"""Arms whose layers the gate in layers.json names."""
MAX_DRAWS = 1000
"""After this many draws we take it that no further set of layers is left."""


class PlannedArm(NamedTuple):
    """One arm before it is trained, for all of its seeds."""

    kind: ArmKind
    """Why the arm is trained."""
    name: str
    """Unique name, as tables print it."""
    layers: tuple[int, ...]
    """Decoder layers that are trained, in ascending order."""
    parameters: int
    """Number of trainable parameters of its adapter."""
    training: TrainSettings
    """Training settings; each run replaces the seed by its own."""
    also: tuple[ArmKind, ...] = ()
    """Kinds of arms with the same layers and training, which are not trained again."""

    @property
    def contiguous(self) -> bool:
        """Whether the layers are consecutive."""
        return self.layers[-1] - self.layers[0] + 1 == len(self.layers)


def plan_arms(
    chosen: Sequence[int], per_rank: Mapping[int, int], settings: AblationSettings, gate: GateEntry | None = None
) -> list[PlannedArm]:
    """Return every arm of an ablation, the chosen range first.

    `per_rank` maps each layer to the number of parameters that one rank costs there
    (`finetune.lora.modules.parameters_per_rank`). The arms of the `gate`, `third` and `all-matched` have the rank, at
    least 1, that brings their parameters closest to those of the chosen range; their alpha keeps alpha / rank, rounded
    to an integer. Layers of the gate that an earlier arm trains in the same way are no arm of their own: that arm has
    both names. Fewer random sets than requested are planned if too few sets exist that are not an arm already. Raises
    InputError as `check_gate_arms` does.
    """
    check_gate_arms(gate, settings)
    layers, width, training = tuple(chosen), len(chosen), settings.training
    all_layers = tuple(sorted(per_rank))
    budget = training.rank * sum(per_rank[layer] for layer in layers)

    def arm(kind: ArmKind, name: str, layers: Sequence[int], training: TrainSettings = training) -> PlannedArm:
        parameters = training.rank * sum(per_rank[layer] for layer in layers)
        return PlannedArm(kind, name, tuple(sorted(layers)), parameters, training)

    def matched(kind: ArmKind, name: str, layers: Sequence[int]) -> PlannedArm:
        rank = max(1, round(budget / sum(per_rank[layer] for layer in layers)))
        alpha = max(1, round(rank * training.alpha / training.rank))
        return arm(kind, name, layers, replace(training, rank=rank, alpha=alpha))

    windows = [all_layers[first : first + width] for first in range(0, len(all_layers) - width + 1, settings.stride)]
    thirds = [part.tolist() for part in np.array_split(all_layers, len(THIRDS))]
    of_gate = _gate_layers(gate)
    taken = [layers, *windows, *of_gate.values()]
    random = random_sets(width, len(all_layers), settings.random, taken, settings.seed)
    arms = [
        arm("chosen", f"chosen {layers_text(layers)}", layers),
        *(arm("window", f"window {layers_text(window)}", window) for window in windows if window != layers),
        *(matched(kind, _gate_name(kind, found), found) for kind, found in of_gate.items()),
        *(
            matched("third", f"{name} third {layers_text(part)}", part)
            for name, part in zip(THIRDS, thirds, strict=True)
            if part
        ),
        *(arm("random", f"random {layers_text(drawn)}", drawn) for drawn in random),
        arm("all", "all layers", all_layers),
        matched("all-matched", "all layers, as many parameters", all_layers),
        arm("no-consistency", "chosen, answers alone", layers, replace(training, consistency_weight=0.0)),
        arm("consistency-only", "chosen, consistency alone", layers, replace(training, answer_weight=0.0)),
    ]
    return _each_once([arm for arm in arms if arm.kind == "chosen" or arm.kind in settings.kinds])


def check_gate_arms(gate: GateEntry | None, settings: AblationSettings) -> None:
    """Raise InputError if arms of the gate are asked for by name but layers.json does not name their layers.

    With all kinds of arms, the default, these arms are left out instead.
    """
    asked = [kind for kind in GATE_KINDS if kind in settings.kinds and kind not in _gate_layers(gate)]
    if not asked or set(settings.kinds) == set(ARM_KINDS):
        return
    if gate is None:
        found = "names no gate, as it found no feature or family that is a cause"
        do = "Leave these arms out of --arms"
    else:
        found = "does not name their layers: its gate has no `span`, as in files of older versions"
        do = "Run `interp find-features` again, or leave these arms out of --arms"
    raise InputError(f"--arms {','.join(asked)}: layers.json {found}. {do}.")


def _gate_layers(gate: GateEntry | None) -> dict[ArmKind, tuple[int, ...]]:
    """Kind of arm -> the layers that layers.json names for the gate; empty without a gate, or in files of before."""
    if gate is None or not gate.span:
        return {}
    return {"feature-to-writer": tuple(gate.span), "writers": tuple(gate.write_layers)}


def _gate_name(kind: ArmKind, layers: Sequence[int]) -> str:
    """Name of an arm of the gate; a span with gaps holds the two ends of the gate alone."""
    gaps = layers[-1] - layers[0] + 1 > len(layers)
    return f"{'both ends' if kind == 'feature-to-writer' and gaps else kind} {layers_text(layers)}"


def _each_once(arms: Sequence[PlannedArm]) -> list[PlannedArm]:
    """The arms without those of the gate that an earlier arm already trains; the earlier one takes over their names."""
    kept: list[PlannedArm] = []
    for arm in arms:
        trained = [(other.layers, other.training) for other in kept]
        if arm.kind in GATE_KINDS and (arm.layers, arm.training) in trained:
            place = trained.index((arm.layers, arm.training))
            name = f"{kept[place].name}, {arm.name.removesuffix(layers_text(arm.layers)).rstrip()}"
            kept[place] = kept[place]._replace(name=name, also=(*kept[place].also, arm.kind))
        else:
            kept.append(arm)
    return kept


def random_sets(
    size: int, n_layers: int, count: int, taken: Sequence[tuple[int, ...]], seed: int
) -> list[tuple[int, ...]]:
    """Return up to `count` different sets of `size` layers in ascending order, none of them in `taken`."""
    rng = np.random.default_rng([seed, 23])
    found: list[tuple[int, ...]] = []
    for _ in range(MAX_DRAWS):
        if len(found) == count:
            break
        drawn = tuple(sorted(rng.choice(n_layers, size, replace=False).tolist()))
        if drawn not in taken and drawn not in found:
            found.append(drawn)
    return found

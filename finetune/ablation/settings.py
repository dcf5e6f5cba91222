"""Settings of an ablation: its arms, seeds and training."""

from dataclasses import dataclass
from typing import Literal, get_args

from finetune.lora.settings import TrainSettings
from interp.runtime.errors import InputError
from interp.runtime.options import LARGEST_SEED, check_options, option

ArmKind = Literal[
    "chosen",
    "window",
    "feature-to-writer",
    "writers",
    "third",
    "random",
    "all",
    "all-matched",
    "no-consistency",
    "consistency-only",
]
"""Why an arm is trained.

`chosen`: the range itself. `window`: another run of the same number of layers. `feature-to-writer`, `writers`: what
layers.json says of the gate, the layers from its feature's to the last that writes (both ends alone, the layer of the
feature and those that write, where that is more than the search's --max-layers), or those that write, with as many
parameters as the range. `third`: the early, middle or late third of all layers. `random`: the same number of layers,
drawn at random. `all`, `all-matched`: every layer, at the same rank or with the same number of parameters.
`no-consistency`, `consistency-only`: the chosen range with one half of the loss.
"""
ARM_KINDS: tuple[ArmKind, ...] = get_args(ArmKind)
DEFAULT_TRAINING = TrainSettings()


@dataclass(frozen=True)
class AblationSettings:
    """Settings of an ablation. Raises InputError for a value outside its range.

    >>> finetune.AblationSettings(seeds=(0,), kinds=("window",), stride=4).kinds
    ('window',)
    """

    training: TrainSettings = DEFAULT_TRAINING
    """Training settings of every arm, except for its rank, alpha, loss weights and seed."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Training seeds; every arm is trained once with each."""
    kinds: tuple[str, ...] = ARM_KINDS
    """Kinds of arms to compare with the chosen range, which is always trained."""
    stride: int = option(1, "Number of layers from the start of one window to the start of the next.", min=1)
    random: int = option(2, "Number of random sets of layers.", min=0)
    seed: int = option(
        0,
        "Seed of the random sets, swapped images, noise images, bootstrap, half splits and permutations; not of the "
        "training.",
        min=0,
        max=LARGEST_SEED,
    )

    def __post_init__(self) -> None:
        different = len(set(self.seeds)) == len(self.seeds)
        if not (self.seeds and different and min(self.seeds) >= 0 and max(self.seeds) <= LARGEST_SEED):
            raise InputError(f"seeds are {list(self.seeds)}, expected different ones from 0 to {LARGEST_SEED}.")
        check_options(self)
        unknown = sorted(set(self.kinds) - set(ARM_KINDS))
        if unknown:
            raise InputError(f"--arms {', '.join(unknown)}: expected some of {', '.join(ARM_KINDS)}.")


DEFAULT_SETTINGS = AblationSettings()

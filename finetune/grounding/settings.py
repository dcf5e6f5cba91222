"""The settings of a grounding study and of its maps."""

from dataclasses import dataclass

from interp.measurement.occlusion import Fill
from interp.model.vlm import Vlm
from interp.runtime.errors import InputError
from interp.schemas.layer_list import listed_layers

MAPS = ("attention", "rollout", "gradient", "integrated", "occlusion")
"""Names of the maps that can be chosen."""
FILLS: tuple[Fill, ...] = ("grey", "blur", "mean")
"""What a removed part of an image can be replaced with."""


@dataclass(frozen=True)
class MapSettings:
    """Which maps are computed, and how. Raises InputError for an unknown map or fill."""

    maps: tuple[str, ...] = MAPS
    """Names of the maps, from MAPS; the occlusion by `fill` is always measured, as the reference."""
    fill: Fill = "grey"
    """What every removed part of an image is replaced with."""
    layers: tuple[int, ...] | None = None
    """Layers that the attention map averages; the rollout ends at the last of them. None means all."""
    heads: tuple[int, ...] | None = None
    """Heads that the attention map averages; None means all."""
    integration_steps: int = 12
    """Number of points on the path of the integrated gradients; on the embedded world 12 points rank the cells as 64 do
    (rank correlation .998)."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.maps if name not in MAPS]
        if unknown or not self.maps:
            raise InputError(f"--maps: found {', '.join(unknown) or 'none'}, expected some of {', '.join(MAPS)}.")
        if self.fill not in FILLS:
            raise InputError(f"--fill {self.fill}: expected one of {', '.join(FILLS)}.")

    def check(self, vlm: Vlm) -> None:
        """Raise InputError for layers or heads that the model does not have."""
        counts = {"layers": vlm.n_layers, "heads": vlm.model.config.text_config.num_attention_heads}
        for name, count in counts.items():
            beyond = [i for i in getattr(self, name) or () if not 0 <= i < count]
            if beyond:
                raise InputError(f"--{name}: found {beyond[0]}, but {vlm.name} has {name} 0 to {count - 1}.")


def map_settings(maps: str | None, fill: Fill, layers: str | None, heads: str | None) -> MapSettings:
    """Parse map settings: maps as a comma-separated list, layers and heads as 15-19 or 9,17; None means all.

    Raises InputError for other text.
    """
    named = MAPS if maps is None else tuple(dict.fromkeys(name.strip() for name in maps.split(",")))
    try:
        of_heads = listed_layers(heads or "all")
    except InputError:
        raise InputError(f"--heads {heads!r}: expected 'all', a range as 0-3, or a list as 0,2.") from None
    of_layers = listed_layers(layers or "all")
    chosen = [None if part is None else tuple(part) for part in (of_layers, of_heads)]
    return MapSettings(named, fill, layers=chosen[0], heads=chosen[1])


DEFAULT_MAPS = MapSettings()


@dataclass(frozen=True)
class GroundingSettings:
    """How a study is made. Raises InputError for a value outside its range."""

    maps: MapSettings = DEFAULT_MAPS
    """Which maps are made, and how."""
    limit: int | None = None
    """Number of questions to study, the first ones; None for all."""
    any_answer: bool = False
    """Whether to study questions whose true answer is not yes too; their box need not be the evidence."""
    paraphrases: int = 3
    """Number of paraphrases of a question, the first ones, whose maps are compared with its own."""
    curve_steps: int = 8
    """Largest number of steps from the whole image to none in deletion and insertion."""
    seed: int = 0
    """Seed of random places and orders, of the images and questions compared with, and of the intervals."""

    def __post_init__(self) -> None:
        for name, least in (("paraphrases", 0), ("curve_steps", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}, expected at least {least}.")

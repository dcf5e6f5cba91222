"""The settings of a grounding study and of its maps."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from interp.runtime.errors import InputError
from interp.runtime.options import LARGEST_SEED, check_options, option
from interp.schemas.layer_list import listed_layers

if TYPE_CHECKING:
    from interp.measurement.occlusion import Fill
    from interp.model.vlm import Vlm

MAPS = ("attention", "rollout", "gradient", "integrated", "occlusion")
"""Names of the maps that can be chosen."""
FILLS: "tuple[Fill, ...]" = ("grey", "blur", "mean")
"""What a removed part of an image can be replaced with."""


@dataclass(frozen=True)
class MapSettings:
    """Which maps are computed, and how. Raises InputError for an unknown map or fill.

    >>> finetune.MapSettings(maps=("attention", "occlusion"), layers=(4, 5)).fill
    'grey'
    """

    maps: tuple[str, ...] = MAPS
    """Names of the maps, from MAPS; the occlusion by `fill` is always measured, as the reference."""
    fill: "Fill" = "grey"
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

    def check(self, vlm: "Vlm") -> None:
        """Raise InputError for layers or heads that the model does not have."""
        counts = {"layers": vlm.n_layers, "heads": vlm.model.config.text_config.num_attention_heads}
        for name, count in counts.items():
            beyond = [i for i in getattr(self, name) or () if not 0 <= i < count]
            if beyond:
                raise InputError(f"--{name}: found {beyond[0]}, but {vlm.name} has {name} 0 to {count - 1}.")


def map_settings(maps: str | None, fill: "Fill", layers: str | None, heads: str | None) -> MapSettings:
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
    """How a study is made. Raises InputError for a value outside its range.

    >>> finetune.GroundingSettings(limit=10).top
    0.2
    """

    maps: MapSettings = DEFAULT_MAPS
    """Which maps are made, and how."""
    limit: int | None = option(None, "Study only the first N questions with boxes.", min=1, shown="all")
    any_answer: bool = option(
        False,
        "Include questions with a box whose true answer is not yes; their box need not be the evidence.",
        flags=("--any-answer",),
    )
    top: float = option(
        0.2,
        "Share of a map's cells that count as its strongest. Attention Without Grounding (arXiv 2607.18577) takes 0.1, "
        "of the attention of layers 10-20 of MedGemma-4B.",
        above=0,
        max=1,
        advanced=True,
    )
    paraphrases: int = option(
        3,
        "Number of paraphrases of a question, from the first, whose maps are compared with that of its original.",
        min=0,
        on_command_line=False,
    )
    curve_steps: int = option(
        8,
        "Largest number of steps of the deletion and insertion curves, from the whole image to none of it.",
        min=1,
        on_command_line=False,
    )
    seed: int = option(
        0,
        "Seed of the random boxes and orders, of the images and questions used as controls, and of the intervals.",
        min=0,
        max=LARGEST_SEED,
    )

    def __post_init__(self) -> None:
        check_options(self)

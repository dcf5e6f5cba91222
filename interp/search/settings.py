"""What a search does: the settings that are recorded in layers.json."""

from dataclasses import dataclass
from typing import Literal

from interp.runtime.options import LARGEST_SEED, check_options, option
from interp.schemas.rules import LEAST_FLIPS, Rule


@dataclass(frozen=True)
class FindSettings:
    """How `find_features` chooses features and takes the range.

        >>> interp.FindSettings(rule="near-peak", max_layers=3).seed
        0

    Raises InputError for a value outside its range.
    """

    rule: Rule = option(
        "answer",
        "Rule that takes the range: answer, where the wording turns into another answer; write, the layers whose own "
        "addition moves the answer directly; growth, where the recovery of the residual patch grows; near-peak, around "
        "the highest flip AUC (the published rule).",
    )
    max_layers: int = option(5, "Most layers in the range.", min=1, advanced=True)
    bank_margin: float = option(
        0.25,
        "Least |margin| [logits] on both sides of a pair of the flip bank; bfloat16 alone blurs some hundredths.",
        min=0,
        on_command_line=False,
    )
    features_a_layer: int = option(
        10,
        "Features of a layer that are chosen on one half of the patients and scored on the other.",
        min=1,
        on_command_line=False,
    )
    min_flips: int = option(
        LEAST_FLIPS,
        "Fewest banked flips on the held-out half from which anything is concluded.",
        min=1,
        on_command_line=False,
    )
    sae_dtype: Literal["float32", "bfloat16"] = option(
        "float32",
        "Number format of the SAEs; bfloat16 halves their memory and changes results slightly.",
        advanced=True,
    )
    seed: int = option(0, "Seed of the halves, the controls and the intervals.", min=0, max=LARGEST_SEED, advanced=True)

    def __post_init__(self) -> None:
        """Check every value; release 0.1 took a torch.dtype for `sae_dtype`."""
        object.__setattr__(self, "sae_dtype", str(self.sae_dtype).removeprefix("torch."))
        check_options(self)


DEFAULT_SETTINGS = FindSettings()

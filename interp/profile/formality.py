"""Is it the register that is turned into another answer? The register patch of the layer where it recovers most."""

from collections.abc import Sequence

import numpy as np

from interp.profile.profile import DRAWS, LayerEffects
from interp.schemas.layers import FormalityEntry
from interp.schemas.record import Interval
from interp.screening.flips import Flips
from interp.statistics import ratio_interval

LEAST_RECOVERY = 0.5
"""Least recovery by the register patch, with its whole interval, of flips that are put down to the register."""


def formality(layers: Sequence[int], effects: LayerEffects, bank: Flips, seed: int) -> FormalityEntry | None:
    """The register patch of `bank`, the held-out flip bank, at the layer that the selection half chooses.

    None without formal and casual wordings, or without flips.
    """
    if effects.register is None or effects.register_selected is None or not len(bank.pairs):
        return None
    chosen = int(effects.register_selected.register.sum(0).argmax())
    size, patients = np.abs(bank.margin_before - bank.margin_after), bank.pairs["patient"].tolist()
    recovery, random = (
        Interval.of(ratio_interval(effect[:, chosen], size, patients, seed, DRAWS)) for effect in effects.register
    )
    return FormalityEntry(
        layer=layers[chosen],
        recovery=recovery,
        random=random,
        holds=recovery.low is not None and recovery.low > max(LEAST_RECOVERY, random.high or 0.0),
    )

"""Recovery by a feature's patch in groups of flips: by finding, phenomenon and registers."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interp.causal.layer_patching import PatchTarget
from interp.questions.lexicon import named_finding
from interp.schemas.record import interval_of
from interp.schemas.study import GroupRecovery
from interp.statistics import ratio_interval
from interp.storage.json_files import significant


def recovery_by_group(
    bank: PatchTarget, effect: NDArray[np.float64], prompts: pd.DataFrame, seed: int
) -> list[GroupRecovery]:
    """Recovery by the feature patch on the banked flips of every finding, every phenomenon and every pair of registers.

    `effect` [flips] is m(p') - m(p) of the patch [logits] on the flips of `bank`. The largest groups come first.
    """
    towards, size = effect * np.sign(bank.shift), np.abs(bank.shift)
    pairs = bank.flips.pairs
    patients = pairs["patient"].to_numpy()
    originals = prompts["text"].to_numpy()[pairs["original"]]
    groupings = {
        "finding": np.array([named_finding(text) for text in originals], object),
        "phenomenon": pairs["phenomenon"].to_numpy(object),
        "registers": pairs["registers"].fillna("untagged").to_numpy(object),
    }
    found = []
    for grouping, member in groupings.items():
        for group, count in pd.Series(member).value_counts().items():
            rows = member == group
            recovery = ratio_interval(towards[rows], size[rows], patients[rows].tolist(), seed)
            found.append(
                GroupRecovery(
                    grouping=grouping,
                    group=str(group),
                    pairs=int(count),
                    patients=len(set(patients[rows])),
                    shift=significant(float(size[rows].sum())),
                    recovery=interval_of(recovery),
                )
            )
    return found

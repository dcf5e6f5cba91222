"""The features that go through exact tests, chosen on one half of the patients, and what the tests say of them."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch

from interp.artifact import CausalEntry, FeatureEntry, Interval
from interp.causal import FeatureTest
from interp.features import SCREEN_COLUMNS, Flips
from interp.residuals import Residuals
from interp.saes import Sae, encode_features
from interp.statistics import auc, benjamini_hochberg

Candidate = tuple[int, int]
"""Layer and feature."""
TEST_COLUMNS = ("recovery", "net", "p", "reversals")


def choose_candidates(screen: pd.DataFrame, count: int) -> list[Candidate]:
    """Half of them by flip AUC, half by attribution; both were measured on the chosen half of the patients alone."""
    by_auc, by_push = (screen.sort_values(name, ascending=False, kind="stable") for name in ("flip_auc", "attribution"))
    wanted: dict[Candidate, None] = {}
    for ordered, size in ((by_auc, count // 2), (by_push, count)):
        for layer, feature in zip(ordered["layer"], ordered["feature"], strict=True):
            if len(wanted) >= size:
                break
            wanted[int(layer), int(feature)] = None
    return list(wanted)


def held_out_aucs(
    candidates: Sequence[Candidate],
    load: Callable[[int], Sae],
    residuals: Residuals,
    held_out: Flips,
) -> dict[Candidate, float]:
    """AUC of |delta| for held-out flips of every candidate; `load` gives the SAE of a layer."""
    found: dict[Candidate, float] = {}
    for layer in sorted({layer for layer, _ in candidates}):
        sae = load(layer)
        mine = [feature for place, feature in candidates if place == layer]
        f = encode_features(sae, residuals.after(layer), torch.tensor(mine)).numpy()
        values = auc(np.abs(f[held_out.pairs["paraphrase"]] - f[held_out.pairs["original"]]), held_out.flipped)
        found |= {(layer, feature): float(value) for feature, value in zip(mine, values, strict=True)}
    return found


def with_tests(
    screen: pd.DataFrame,
    candidates: Sequence[Candidate],
    tests: Sequence[FeatureTest],
    held_out: dict[Candidate, float],
) -> pd.DataFrame:
    """The screen with held_out_auc, recovery, net, p (adjusted) and reversals of the candidates, NaN for all others.

    Tested features come first, highest net recovery on top.
    """
    adjusted = benjamini_hochberg(np.array([test.p for test in tests], float))
    rows = [
        {"layer": t.layer, "feature": t.feature, "recovery": t.recovery.value, "net": t.net.value, "p": p}
        | {"reversals": t.reversals}
        for t, p in zip(tests, adjusted, strict=True)
    ]
    tested = pd.DataFrame(rows, columns=["layer", "feature", *TEST_COLUMNS])
    judged = pd.DataFrame(
        [
            {"layer": layer, "feature": feature, "held_out_auc": held_out[layer, feature]}
            for layer, feature in candidates
        ],
        columns=["layer", "feature", "held_out_auc"],
    )
    merged = screen.merge(judged, "left", ["layer", "feature"]).merge(tested, "left", ["layer", "feature"])
    place = list(SCREEN_COLUMNS).index("flip_p") + 1
    merged.insert(place, "held_out_auc", merged.pop("held_out_auc"))
    return merged.sort_values("net", ascending=False, na_position="last", kind="stable", ignore_index=True)


def feature_entries(
    screen: pd.DataFrame, candidates: Sequence[Candidate], tests: Sequence[FeatureTest]
) -> list[FeatureEntry]:
    """The candidates as layers.json has them, in the order of the screen; untested where there was nothing to patch."""
    by_name = {(test.layer, test.feature): test for test in tests}
    wanted = set(candidates)
    rows = [row for row in screen.to_dict("records") if (row["layer"], row["feature"]) in wanted]
    known = set(FeatureEntry.model_fields)
    return [
        FeatureEntry(
            **{name: value for name, value in row.items() if name in known},
            causal=_entry(by_name.get((row["layer"], row["feature"])), row["p"]),
        )
        for row in rows
    ]


def _entry(test: FeatureTest | None, adjusted: float) -> CausalEntry | None:
    if test is None:
        return None
    content = test._asdict() | {"recovery": Interval.of(test.recovery), "net": Interval.of(test.net), "p": adjusted}
    fields = {name: value for name, value in content.items() if name in CausalEntry.model_fields}
    return CausalEntry(**fields | {"dose": list(test.dose)})

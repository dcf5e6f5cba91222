"""The tested features as features.csv and layers.json list them."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from interp.causal.feature_patching import FeatureTest
from interp.schemas.layers import CausalEntry, FeatureEntry
from interp.schemas.record import Interval
from interp.screening.candidates import Candidate
from interp.screening.feature_stats import SCREEN_COLUMNS
from interp.statistics import benjamini_hochberg

TEST_COLUMNS = ("recovery", "net", "p", "reversals")
"""Columns of the causal tests in features.csv; those of `CausalEntry` without intervals."""


def with_tests(
    screen: pd.DataFrame,
    candidates: Sequence[Candidate],
    tests: Sequence[FeatureTest],
    held_out_auc: Mapping[Candidate, float],
) -> pd.DataFrame:
    """The screen with held_out_auc and TEST_COLUMNS of the candidates, NaN for all other features.

    p is adjusted over the tests. Tested features come first, highest net recovery on top.
    """
    adjusted = benjamini_hochberg(np.array([test.p for test in tests], float))
    rows = [
        {"layer": t.layer, "feature": t.feature, "recovery": t.recovery.value, "net": t.net.value, "p": p}
        | {"reversals": t.reversals}
        for t, p in zip(tests, adjusted, strict=True)
    ]
    tested = pd.DataFrame(rows, columns=["layer", "feature", *TEST_COLUMNS])
    held_out = pd.DataFrame(
        [
            {"layer": layer, "feature": feature, "held_out_auc": held_out_auc[layer, feature]}
            for layer, feature in candidates
        ],
        columns=["layer", "feature", "held_out_auc"],
    )
    merged = screen.merge(held_out, "left", ["layer", "feature"]).merge(tested, "left", ["layer", "feature"])
    place = list(SCREEN_COLUMNS).index("flip_p") + 1
    merged.insert(place, "held_out_auc", merged.pop("held_out_auc"))
    return merged.sort_values("net", ascending=False, na_position="last", kind="stable", ignore_index=True)


def feature_entries(
    table: pd.DataFrame, candidates: Sequence[Candidate], tests: Sequence[FeatureTest]
) -> list[FeatureEntry]:
    """The candidates as layers.json lists them, in the order of `table` (`with_tests`)."""
    by_name = {(test.layer, test.feature): test for test in tests}
    wanted = set(candidates)
    rows = [row for row in table.to_dict("records") if (row["layer"], row["feature"]) in wanted]
    known = set(FeatureEntry.model_fields)
    return [
        FeatureEntry(
            **{name: value for name, value in row.items() if name in known},
            causal=_causal_entry(by_name.get((row["layer"], row["feature"])), row["p"]),
        )
        for row in rows
    ]


def _causal_entry(test: FeatureTest | None, adjusted: float) -> CausalEntry | None:
    if test is None:
        return None
    content = test._asdict() | {"recovery": Interval.of(test.recovery), "net": Interval.of(test.net), "p": adjusted}
    fields = {name: value for name, value in content.items() if name in CausalEntry.model_fields}
    return CausalEntry(**fields | {"dose": list(test.dose)})

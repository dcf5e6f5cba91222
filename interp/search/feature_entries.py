"""The tested features as features.csv and layers.json list them."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from interp.causal.feature_patching import FeatureTest
from interp.profile.places import ORDER, place_of
from interp.schemas.record import Interval
from interp.schemas.tested_features import CausalEntry, FeatureEntry
from interp.screening.candidates import Candidate
from interp.screening.feature_stats import SCREEN_COLUMNS
from interp.statistics import benjamini_hochberg

TEST_COLUMNS = ("recovery", "net", "direct", "mediated", "p", "p_mediated", "reversals", "place")
"""Columns of the causal tests in features.csv; those of `CausalEntry` without intervals."""

INTERVALS = ("recovery", "net", "direct", "mediated", "net_mediated")
"""Estimates of `FeatureTest`, which layers.json lists with their intervals."""


def with_tests(
    screen: pd.DataFrame,
    candidates: Sequence[Candidate],
    tests: Sequence[FeatureTest],
    held_out_auc: Mapping[Candidate, float],
    writing: Sequence[int],
) -> pd.DataFrame:
    """The screen with held_out_auc and TEST_COLUMNS of the candidates, NaN for all other features.

    p is adjusted over the tests, and `writing` are the layers that write the answer. Tested features come first, causes
    on top (`interp.profile.places`), and those of one place by net mediated recovery.
    """
    adjusted = benjamini_hochberg(np.array([test.p for test in tests], float))
    adjusted_mediated = benjamini_hochberg(np.array([test.p_mediated for test in tests], float))
    rows = [
        {"layer": t.layer, "feature": t.feature, "recovery": t.recovery.value, "net": t.net.value}
        | {"direct": t.direct.value, "mediated": t.mediated.value, "p": p, "p_mediated": mediated}
        | {"reversals": t.reversals, "place": place_of(t.layer, _causal_entry(t, p, mediated), writing)}
        | {"net_mediated": t.net_mediated.value}
        for t, p, mediated in zip(tests, adjusted, adjusted_mediated, strict=True)
    ]
    tested = pd.DataFrame(rows, columns=["layer", "feature", *TEST_COLUMNS, "net_mediated"])
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
    rank = merged["place"].map({name: rank for rank, name in enumerate(ORDER)}).fillna(len(ORDER))
    order = np.lexsort([-merged["net_mediated"].fillna(0).to_numpy(float), rank.to_numpy(float)])
    return merged.drop(columns="net_mediated").iloc[order].reset_index(drop=True)


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
            causal=_causal_entry(by_name[row["layer"], row["feature"]], row["p"], row["p_mediated"]) if tests else None,
        )
        for row in rows
    ]


def _causal_entry(test: FeatureTest, p: float, p_mediated: float) -> CausalEntry:
    intervals = {name: Interval.of(getattr(test, name)) for name in INTERVALS}
    content = test._asdict() | intervals | {"p": p, "p_mediated": p_mediated}
    fields = {name: value for name, value in content.items() if name in CausalEntry.model_fields}
    return CausalEntry(**fields | {"dose": list(test.dose)})

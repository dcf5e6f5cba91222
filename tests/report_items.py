"""What the explorers of a report show: items and screened features of any number, added to a run of `report_run`."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from report_run import FINGERPRINTS

from finetune.evaluation.quadrants import QUADRANTS
from interp.schemas.items import EVALUATION_ITEMS, ITEMS, TEXT, evaluation_items_path, write_items


def write_screened(run: Path, features: int) -> None:
    """A features.parquet of so many features, the three that `report_run.layers` tested among them."""
    rng = np.random.default_rng(8)
    tested = {(1, 20): "echo", (2, 7): "echo", (3, 500): "echo"}
    names = list(tested) + [(i % 4, 1000 + i) for i in range(features - len(tested))]
    table: dict[str, Any] = {"layer": [layer for layer, _ in names], "feature": [feature for _, feature in names]}
    table |= {name: rng.random(features).round(4) for name in ("flip_auc", "flip_p", "density", "register_auc")}
    table |= {"mean_activation": rng.exponential(3, features), "margin_r": rng.uniform(-1, 1, features)}
    table |= {"net": [0.1, 0.2, 0.3] + [None] * (features - 3), "place": [tested.get(name) for name in names]}
    pd.DataFrame(table).sample(frac=1, random_state=1).to_parquet(run / "features.parquet", index=False)


def asked(rows: int) -> pd.DataFrame:
    """The columns of both kinds of items, with texts."""
    numbers = range(rows)
    table: dict[str, Any] = {name: [f"{name} {i}" for i in numbers] for name in TEXT}
    table["question_key"] = [f"{i // 5:016x}" for i in numbers]
    table["patient_key"] = [f"{i // 10:016x}" for i in numbers]
    table["type"] = [("presence", "view")[i % 2] for i in numbers]
    table["finding"] = [("effusion", "nodule", "other")[i % 3] for i in numbers]
    table["answer"] = [("yes", "no")[i % 2] for i in numbers]
    return pd.DataFrame(table).assign(phenomenon="lexical_substitution", registers="formal-casual")


def search_items(pairs: int) -> pd.DataFrame:
    """Items of a search; every eighth pair flips."""
    rng, place = np.random.default_rng(9), np.arange(pairs)
    return asked(pairs).assign(
        wording=1 + place % 4,
        margin_original=rng.normal(0, 2, pairs),
        margin_wording=rng.normal(0, 2, pairs),
        flipped=place % 8 == 3,
        banked=False,
        held_out=place % 2 == 0,
        delta=rng.normal(size=pairs),
        recovery=np.nan,
    )


def evaluation_items(wordings: int) -> pd.DataFrame:
    """Items of an evaluation of one arm; the first wording of each five is the original."""
    rng, place = np.random.default_rng(10), np.arange(wordings)
    known: dict[str, Any] = {"arm": "adapter", "closed": True, "wording": place % 5}
    for name in ("margin_before", "margin_after", "blank_margin_before", "blank_margin_after"):
        known[name] = rng.normal(0, 2, wordings)
    for name in ("correct_before", "correct_after", "first_token_before", "first_token_after"):
        known[name] = pd.array(rng.random(wordings) < 0.8, dtype="boolean")
    for name in ("flipped_before", "flipped_after"):
        flips = pd.array(rng.random(wordings) < 0.2, dtype="boolean")
        flips[::5] = pd.NA
        known[name] = flips
    for name in (name for name in EVALUATION_ITEMS if name.startswith("quadrant")):
        known[name] = rng.choice(QUADRANTS, wordings)
    return asked(wordings).assign(**known)


def write_items_of(run: Path, pairs: int, wordings: int, include_text: bool = False) -> None:
    """Write the items of the run's search, and those of an evaluation in its folder `adapter`."""
    write_items(run / ITEMS, search_items(pairs), "search", FINGERPRINTS["search"], include_text)
    kept = evaluation_items_path(run / "adapter" / "evaluation.json")
    write_items(kept, evaluation_items(wordings), "evaluation", FINGERPRINTS["evaluation"], include_text)

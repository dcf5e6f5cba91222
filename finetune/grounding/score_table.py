"""The scores of every map on every question, each beside its controls: one long table."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from finetune.grounding.all_images import Observed
from finetune.grounding.map_scores import Floats, area, box_scores, rank_agreement
from finetune.grounding.questions import Lesion

SCORES: Mapping[str, str] = {
    "mass": "share of the map's positive part inside the boxes",
    "coverage": "share of the boxes that the top fifth of the cells covers",
    "precision": "share of the top fifth's area inside the boxes",
    "pointing": "the strongest cell's centre lies in a box",
    "rank_agreement": "Spearman with the occlusion map; of the occlusion itself, with those by other fills",
    "deletion_margin": "margin lost while the cells go in the map's order, mean over the way [logits]",
    "deletion_probability": "the same of the answer's probability among yes and no",
    "insertion_margin": "margin gained over the empty image while the cells come in that order [logits]",
    "insertion_probability": "the same of the probability",
    "paraphrase_agreement": "Spearman with the map of a paraphrase, mean over them",
    "roi_margin": "margin lost when the boxes are filled [logits]",
    "roi_flip": "the answer turns when the boxes are filled",
}
"""Score -> what it is. Margins and probabilities are those of the model's own answer to the whole image.

Controls (`against`). Box scores: the boxes shifted, or at random places. Rank agreement: with the occlusion map of the
same wording on another patient's image. Curves: random orders. Paraphrase agreement: with the map of the same wording
on another patient's image, or of another question on the same image. Filled boxes: the same shape filled elsewhere.
"""
COLUMNS = ("question", "arm", "map", "score", "against", "value", "control")
KINDS = {"deletion": -1.0, "insertion": 1.0}
"""Kind of curve -> which way the answer should go."""

Row = tuple[int, str, str, str, str, float, float]


def score_table(observed: Mapping[str, Observed], asks: pd.DataFrame, lesions: Sequence[Lesion]) -> pd.DataFrame:
    """One row a question, arm, map, score and control, as COLUMNS; what can not be had is NaN."""
    rows_of = [
        {role: rows.index.to_numpy() for role, rows in group.groupby("role")}
        for _, group in asks.groupby("question", sort=True)
    ]
    found: list[Row] = []
    for arm, seen in observed.items():
        for question, (rows, lesion) in enumerate(zip(rows_of, lesions, strict=True)):
            for name in seen.maps:
                scored = (
                    *_on_boxes(seen.maps[name][rows["original"][0]], lesion),
                    *_ranks(seen, name, rows),
                    *_on_curves(seen, name, rows["original"][0], question),
                    *_between_wordings(seen.maps[name], rows),
                )
                found += [(question, arm, name, *row) for row in scored]
            found += [(question, arm, "model", *row) for row in _on_regions(seen, rows["original"][0], question)]
    return pd.DataFrame(found, columns=list(COLUMNS))


Scored = Iterator[tuple[str, str, float, float]]
"""score, against, value, control."""


def _on_boxes(values: Floats, lesion: Lesion) -> Scored:
    true = box_scores(values, lesion.region)
    for against, region in lesion.controls.items():
        control = box_scores(values, region)
        for score, value in true.items():
            yield score, against, float(value), float(np.mean(control[score]))


def _ranks(seen: Observed, name: str, rows: Mapping[str, Floats]) -> Scored:
    row, elsewhere = rows["original"][0], rows.get("other image", [None])[0]
    own = seen.other_fills[row] if name == "occlusion" else seen.maps[name][[row]]
    if len(own):
        value = _mean_agreement(seen.reference[row], own)
        control = np.nan if elsewhere is None else _mean_agreement(seen.reference[elsewhere], own)
        yield "rank_agreement", "other image", value, control


def _on_curves(seen: Observed, name: str, row: int, question: int) -> Scored:
    sign = 1.0 if seen.margins[row] > 0 else -1.0
    margins = sign * seen.curves[question]
    k = list(seen.maps).index(name)
    for unit, ways in (("margin", margins), ("probability", _probability(margins))):
        # Deletion counts from the whole image down, insertion from the empty one up: more is better in both.
        gained = area(ways) - ways[..., 0]
        for i, (kind, direction) in enumerate(KINDS.items()):
            moved = direction * gained[:, i]
            yield f"{kind}_{unit}", "random order", float(moved[k]), float(moved[len(seen.maps) :].mean())


def _between_wordings(values: Floats, rows: Mapping[str, Floats]) -> Scored:
    if "paraphrase" not in rows:
        return
    original = values[rows["original"][0]]
    value = _mean_agreement(original, values[rows["paraphrase"]])
    for against in ("other image", "other question"):
        if against in rows:
            yield "paraphrase_agreement", against, value, _mean_agreement(original, values[rows[against]])


def _on_regions(seen: Observed, row: int, question: int) -> Scored:
    sign = 1.0 if seen.margins[row] > 0 else -1.0
    left = sign * seen.without[question]
    lost, turned = sign * seen.margins[row] - left, (left > 0) != (sign * seen.margins[row] > 0)
    for score, values in (("roi_margin", lost), ("roi_flip", turned.astype(float))):
        control = float(values[1:].mean()) if len(values) > 1 else np.nan
        yield score, "random region", float(values[0]), control


def _probability(margins: Floats) -> Floats:
    """Of the answer that the margins speak for, among yes and no; their sigmoid."""
    return (1 + np.tanh(margins / 2)) / 2


def _mean_agreement(values: Floats, others: Floats) -> float:
    """Mean Spearman of a map [T] with others [n, T]; NaN if one of them is uniform."""
    return float(np.mean([rank_agreement(values, other) for other in others]))


def mean_curves(observed: Mapping[str, Observed], asks: pd.DataFrame) -> pd.DataFrame:
    """Deletion and insertion, mean over the questions.

    Columns: arm, map ("random" for the random orders), kind, share of the cells gone or come, margin of the answer
    [logits], probability of the answer.
    """
    originals = np.flatnonzero(asks["role"] == "original")
    found = []
    for arm, seen in observed.items():
        sign = np.where(seen.margins[originals] > 0, 1.0, -1.0)[:, None, None, None]
        margins = sign * np.stack(seen.curves)
        count = len(seen.maps)
        rows = {name: [k] for k, name in enumerate(seen.maps)} | {"random": list(range(count, margins.shape[1]))}
        for name, mine in rows.items():
            for i, kind in enumerate(KINDS):
                chosen = margins[:, mine, i].reshape(-1, margins.shape[-1])
                steps = np.linspace(0, 1, chosen.shape[1])
                means = (chosen.mean(0), _probability(chosen).mean(0))
                found += [(arm, name, kind, *point) for point in zip(steps, *means, strict=True)]
    return pd.DataFrame(found, columns=["arm", "map", "kind", "share", "margin", "probability"])

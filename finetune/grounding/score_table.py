"""The score table: every score of every map on every question, beside its controls."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from finetune.grounding.all_images import ArmObservations
from finetune.grounding.map_scores import Floats, area, box_scores
from finetune.grounding.questions import Lesion
from interp.statistics import spearman

GROUNDING_SCORES: Mapping[str, str] = {
    "mass": "share of the map's positive part inside the boxes",
    "coverage": "share of the boxes covered by the strongest cells, a share --top of all",
    "precision": "share of the area of these cells inside the boxes",
    "pointing": "whether the centre of the strongest cell lies in a box",
    "rank_agreement": "Spearman correlation with the occlusion map; for that map itself, with those by other fills",
    "deletion_margin": "margin lost while cells are removed in the map's order, mean over the curve [logits]",
    "deletion_probability": "the same for the probability of the answer among yes and no",
    "insertion_margin": "margin gained while cells are added to the empty image in that order, mean [logits]",
    "insertion_probability": "the same for the probability",
    "paraphrase_agreement": "Spearman correlation with the map of a paraphrase, mean over paraphrases",
    "roi_margin": "margin lost when the boxes are filled [logits]",
    "roi_flip": "whether the answer changes when the boxes are filled",
}
"""Score -> what it is. Margins and probabilities are those of the model's own answer to the whole image.

Each score has a control (column `against`). The control of box scores is the boxes shifted, or at random places; that
of rank agreement is the occlusion map of the same wording on another patient's image; that of deletion and insertion is
a random order; that of paraphrase agreement is the map of the same wording on another patient's image, or of another
question on the same image; that of filled boxes is the same shape filled elsewhere.
"""
COLUMNS = ("question", "arm", "map", "score", "against", "value", "control")
CURVE_SIGNS = {"deletion": -1.0, "insertion": 1.0}
"""Kind of curve -> sign of the change that a faithful map causes in the margin of the answer."""

Row = tuple[int, str, str, str, str, float, float]


def score_table(
    observed: Mapping[str, ArmObservations], wordings: pd.DataFrame, lesions: Sequence[Lesion], top: float
) -> pd.DataFrame:
    """Return one row for each question, arm, map, score and control (COLUMNS); what is undefined is NaN.

    `top` is the share of a map's cells that count as its strongest.
    """
    rows_of = [
        {role: rows.index.to_numpy() for role, rows in group.groupby("role")}
        for _, group in wordings.groupby("question", sort=True)
    ]
    found: list[Row] = []
    for arm, observations in observed.items():
        for question, (rows, lesion) in enumerate(zip(rows_of, lesions, strict=True)):
            for name in observations.maps:
                of_map = (
                    *_on_boxes(observations.maps[name][rows["original"][0]], lesion, top),
                    *_ranks(observations, name, rows),
                    *_on_curves(observations, name, rows["original"][0], question),
                    *_between_wordings(observations.maps[name], rows),
                )
                found += [(question, arm, name, *row) for row in of_map]
            of_model = _on_regions(observations, rows["original"][0], question)
            found += [(question, arm, "model", *row) for row in of_model]
    return pd.DataFrame(found, columns=list(COLUMNS))


Scored = Iterator[tuple[str, str, float, float]]
"""Yields (score, against, value, control)."""


def _on_boxes(values: Floats, lesion: Lesion, top: float) -> Scored:
    true = box_scores(values, lesion.region, top)
    for against, region in lesion.controls.items():
        control = box_scores(values, region, top)
        for score, value in true.items():
            yield score, against, float(value), float(np.mean(control[score]))


def _ranks(observations: ArmObservations, name: str, rows: Mapping[str, Floats]) -> Scored:
    row, elsewhere = rows["original"][0], rows.get("other image", [None])[0]
    own = observations.other_fills[row] if name == "occlusion" else observations.maps[name][[row]]
    if len(own):
        value = _mean_agreement(observations.reference[row], own)
        control = np.nan if elsewhere is None else _mean_agreement(observations.reference[elsewhere], own)
        yield "rank_agreement", "other image", value, control


def _on_curves(observations: ArmObservations, name: str, row: int, question: int) -> Scored:
    sign = 1.0 if observations.margins[row] > 0 else -1.0
    margins = sign * observations.curves[question]
    k = list(observations.maps).index(name)
    for unit, curves in (("margin", margins), ("probability", _probability(margins))):
        # Signed so that more is better in both: deletion lowers the margin, insertion raises it.
        gained = area(curves) - curves[..., 0]
        for i, (kind, sign_of_kind) in enumerate(CURVE_SIGNS.items()):
            moved = sign_of_kind * gained[:, i]
            yield f"{kind}_{unit}", "random order", float(moved[k]), float(moved[len(observations.maps) :].mean())


def _between_wordings(values: Floats, rows: Mapping[str, Floats]) -> Scored:
    if "paraphrase" not in rows:
        return
    original = values[rows["original"][0]]
    value = _mean_agreement(original, values[rows["paraphrase"]])
    for against in ("other image", "other question"):
        if against in rows:
            yield "paraphrase_agreement", against, value, _mean_agreement(original, values[rows[against]])


def _on_regions(observations: ArmObservations, row: int, question: int) -> Scored:
    sign = 1.0 if observations.margins[row] > 0 else -1.0
    left = sign * observations.without[question]
    lost, flipped = sign * observations.margins[row] - left, (left > 0) != (sign * observations.margins[row] > 0)
    for score, values in (("roi_margin", lost), ("roi_flip", flipped.astype(float))):
        control = float(values[1:].mean()) if len(values) > 1 else np.nan
        yield score, "random region", float(values[0]), control


def _probability(margins: Floats) -> Floats:
    """Return the probability of yes among yes and no: the sigmoid of the margin."""
    return (1 + np.tanh(margins / 2)) / 2


def _mean_agreement(values: Floats, others: Floats) -> float:
    """Return the mean Spearman correlation of a map [T] with others [n, T]; NaN if one of them is uniform."""
    return float(np.mean([spearman(values, other) for other in others]))


def mean_curves(observed: Mapping[str, ArmObservations], wordings: pd.DataFrame) -> pd.DataFrame:
    """Average the deletion and insertion curves over the questions.

    The columns are arm, map ("random" for the random orders), kind, share of the cells removed or added, margin of the
    answer [logits], and probability of the answer.
    """
    originals = np.flatnonzero(wordings["role"] == "original")
    found = []
    for arm, observations in observed.items():
        sign = np.where(observations.margins[originals] > 0, 1.0, -1.0)[:, None, None, None]
        margins = sign * np.stack(observations.curves)
        count = len(observations.maps)
        rows = {name: [k] for k, name in enumerate(observations.maps)}
        rows["random"] = list(range(count, margins.shape[1]))
        for name, orders in rows.items():
            for i, kind in enumerate(CURVE_SIGNS):
                chosen = margins[:, orders, i].reshape(-1, margins.shape[-1])
                steps = np.linspace(0, 1, chosen.shape[1])
                means = (chosen.mean(0), _probability(chosen).mean(0))
                found += [(arm, name, kind, *point) for point in zip(steps, *means, strict=True)]
    return pd.DataFrame(found, columns=["arm", "map", "kind", "share", "margin", "probability"])

"""Numbers and names as the report prints them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from interp.schemas.layers import Interval

NONE = "–"
"""Stands where a number is undefined or does not apply."""


class Scale(NamedTuple):
    """How a measure is printed."""

    factor: float
    """What its number is multiplied by."""
    digits: int
    """Decimals."""


PERCENT, PLAIN = Scale(100.0, 1), Scale(1.0, 2)
UNITS = {"margin_difference": "logits", "blank_margin": "logits", "margin_dispersion": "", "margin_auc": ""}
"""Unit of the measures of an evaluation that are no shares; shares are printed in percent."""
MEANINGS = {
    "question_flip_rate": "questions whose answer changes with at least one paraphrase",
    "pairwise_flip_rate": "(question, paraphrase) pairs answered differently",
    "symmetric_flip_rate": "chance that two wordings of a question are answered differently",
    "margin_difference": "mean change of the answer margin between the wordings of a pair",
    "margin_dispersion": "spread of the margin within questions over that between them",
    "accuracy": "yes/no questions answered rightly, all wordings",
    "original_accuracy": "the same, original wording",
    "balanced_accuracy": "mean of that of the yes and of the no questions",
    "margin_auc": "chance that a yes question has a greater margin than a no question",
    "calibration_error": "how far confidence is from being right",
    "first_token_accuracy": "right first token, all types of question",
    "sequence_accuracy": "generated answer begins with the whole true one",
    "text_only_agreement": "answers that stay without the image, mean over four blanks",
    "blank_margin": "how sure the model is without the image",
    "swap_sensitivity": "answers that change with another patient's image",
    "blank_flip_rate": "question flip rate with the grey blank",
    "parsed_flip_rate": "pairs whose generated answers differ",
    "parsed_accuracy": "generated answers that are right",
    "parsed_agreement": "generated answers that agree with the margin",
    "unparsed": "generated answers that say neither yes nor no, or both",
    "combined": "consistency, being right and looking in one score",
}
"""Measure -> what it is, in a few words."""
QUADRANTS = {
    "ideal": "consistent, rests on the image",
    "fragile": "rests on the image, flips",
    "dangerous": "consistent, does not rest on the image",
    "worst": "neither",
}
"""Quadrant -> what it is ("Consistent but Dangerous", arXiv 2603.20985)."""
SCORES = {
    "mass": "share of the map's positive part inside the lesion boxes",
    "coverage": "share of the boxes that the top fifth of the cells covers",
    "precision": "share of the top fifth's area inside the boxes",
    "pointing": "the strongest cell's centre lies in a box",
    "rank_agreement": "rank correlation with the occlusion map; of that itself, with those by other fills",
    "deletion_margin": "margin lost while cells go in the map's order [logits]",
    "deletion_probability": "the same of the answer's probability",
    "insertion_margin": "margin gained while cells come in that order [logits]",
    "insertion_probability": "the same of the probability",
    "paraphrase_agreement": "rank correlation with the map of a paraphrase",
    "roi_margin": "margin lost when the lesion is filled [logits]",
    "roi_flip": "the answer turns when the lesion is filled",
}
"""Score of a map -> what it is."""
GROUPS = {
    "phrasings": "phrasings",
    "type": "type",
    "finding": "finding",
    "register": "register of the wording",
    "registers": "registers of the pair",
    "phenomenon": "phenomenon",
}
"""Kind of group -> its name."""


def scale_of(measure: str) -> Scale:
    """How a measure of an evaluation or an ablation is printed."""
    return PLAIN if measure in UNITS else PERCENT


def label(measure: str) -> str:
    """A measure in words, with its unit."""
    words = measure.replace("_", " ").replace("auc", "AUC").replace("text only agreement", "text-only agreement")
    if measure == "combined":
        return "combined score [points]"
    unit = UNITS.get(measure, "%")
    return f"{words} [{unit}]" if unit else words


def number(value: float | None, scale: Scale = PLAIN, sign: bool = False) -> str:
    """A number with a true minus sign, `NONE` where it is undefined."""
    if value is None or not math.isfinite(value):
        return NONE
    # The sum takes the sign off a rounded zero.
    rounded = round(scale.factor * value, scale.digits) + 0.0
    return f"{rounded:{'+' if sign else ''},.{scale.digits}f}".replace("-", "−")


def interval(found: Interval, scale: Scale = PLAIN, sign: bool = False, unit: str = "") -> str:
    """A number with its 95% interval, as `0.71 [0.64, 0.77]` or, with a unit, `71% [64, 77]`."""
    value = number(found.value, scale, sign)
    if value == NONE or found.low is None or found.high is None:
        return value if value == NONE else value + unit
    # No break inside of the interval.
    return f"{value}{unit} [{number(found.low, scale, sign)},\xa0{number(found.high, scale, sign)}]"


def p_value(p: float | None) -> str:
    """Three decimals, or that it is smaller."""
    if p is None or not math.isfinite(p):
        return NONE
    return "<\u2009.001" if p < 0.001 else f"{p:.3f}"


def layers(chosen: Sequence[int]) -> str:
    """Layers as `4–5`, `9` or `2, 4`."""
    if not chosen:
        return "none"
    if len(chosen) > 1 and list(chosen) == list(range(chosen[0], chosen[-1] + 1)):
        return f"{chosen[0]}–{chosen[-1]}"
    return ", ".join(map(str, chosen))


def spoken(name: str) -> str:
    """A name of an artifact without its underscores."""
    return name.replace("_", " ")


def sentence(text: str) -> str:
    """With a capital and a full stop."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")

"""What measures, quadrants, scores of maps and kinds of groups are called, and what they mean in a few words."""

from interp.views.numbers import PERCENT, UNSCALED, Scale, spoken

UNITS = {
    "margin_difference": "logits",
    "blank_margin": "logits",
    "opposite_margin_shift": "logits",
    "margin_dispersion": "",
    "margin_auc": "",
}
"""Units of the measures that are not shares; shares are shown in percent."""
MEASURE_MEANINGS = {
    "question_flip_rate": "questions whose answer changes with at least one paraphrase",
    "pairwise_flip_rate": "(question, paraphrase) pairs with different answers",
    "symmetric_flip_rate": "chance that two wordings of a question get different answers",
    "margin_difference": "mean change of the answer margin between the wordings of a pair",
    "margin_dispersion": "spread of the margin within questions relative to that between questions",
    "accuracy": "yes/no questions answered correctly, all wordings",
    "original_accuracy": "yes/no questions answered correctly, original wording",
    "balanced_accuracy": "mean of the accuracies on yes questions and on no questions",
    "margin_auc": "chance that a yes question has a larger margin than a no question",
    "calibration_error": "gap between confidence and accuracy",
    "first_token_accuracy": "correct first token, all types of questions",
    "sequence_accuracy": "generated answer begins with the whole correct answer",
    "text_only_agreement": "answers that stay the same without the image, mean over four blank images",
    "blank_margin": "size of the margin without the image",
    "swap_sensitivity": "answers that change with another patient's image",
    "opposite_swap_sensitivity": "answers that change with the image of a patient with the opposite answer",
    "paired_image_accuracy": "correct on the own image and on one with the opposite answer; 0% without looking",
    "opposite_margin_shift": "margin on the own image minus that on one with the opposite answer, towards the truth",
    "blank_flip_rate": "question flip rate with the grey image",
    "parsed_flip_rate": "pairs with different generated answers",
    "parsed_accuracy": "generated answers that are correct",
    "parsed_agreement": "generated answers that agree with the margin",
    "unparsed": "generated answers that say neither yes nor no, or both",
    "published_flip_rate": "questions whose parsed generated answer changes, by PSF-Med's parser",
    "published_excluded": "generated answers that PSF-Med's parser cannot read",
    "text_only_agreement_gaussian": "answers that stay the same on Gaussian noise, 128 ± 64 (PSF-Med)",
    "combined": "consistency, accuracy and use of the image in one score",
}
"""Measure -> what it is."""
LESS_IS_BETTER = frozenset(
    {
        "question_flip_rate",
        "pairwise_flip_rate",
        "symmetric_flip_rate",
        "parsed_flip_rate",
        "published_flip_rate",
        "published_excluded",
        "margin_difference",
        "margin_dispersion",
        "calibration_error",
        "text_only_agreement",
        "text_only_agreement_gaussian",
        "blank_margin",
        "unparsed",
    }
)
"""Measures of which a smaller value is better; of the others a larger one is."""
QUADRANT_MEANINGS = {
    "ideal": "consistent, relies on the image",
    "fragile": "relies on the image, flips",
    "dangerous": "consistent, does not rely on the image",
    "worst": "flips, does not rely on the image",
}
"""Quadrant -> what it is (Consistent but Dangerous, arXiv 2603.20985)."""
IN_DETAIL = (
    "opposite_swap_sensitivity",
    "paired_image_accuracy",
    "opposite_margin_shift",
    "published_flip_rate",
    "published_excluded",
    "text_only_agreement_gaussian",
)
"""Measures that --full, the report and evaluation.json show, but not notebooks, whose tables stay short."""
RELIANCE_MEANINGS = {
    "grey": "it changes with a grey image, the published definition",
    "any": "it changes with any of four blank images or of other patients' images",
    "opposite": "it changes with the image of another patient with the opposite answer, the one test of these that a "
    "perfect model always passes",
}
"""What shows that an answer relies on the image -> when it does."""
MAP_SCORE_MEANINGS = {
    "mass": "share of the map's positive part inside the lesion boxes",
    "coverage": "share of the boxes covered by the strongest cells (a fifth of all, unless set otherwise)",
    "precision": "share of the area of these cells inside the boxes",
    "pointing": "whether the centre of the strongest cell lies in a box",
    "rank_agreement": "rank correlation with the occlusion map; for that map, with occlusion maps of other fills",
    "deletion_margin": "margin lost while cells are deleted in the map's order [logits]",
    "deletion_probability": "probability of the answer lost in the same deletion",
    "insertion_margin": "margin gained while cells are inserted in the map's order [logits]",
    "insertion_probability": "probability of the answer gained in the same insertion",
    "paraphrase_agreement": "rank correlation with the map of a paraphrase",
    "roi_margin": "margin lost when the lesion is filled [logits]",
    "roi_flip": "whether the answer flips when the lesion is filled",
}
"""Score of a map -> what it is, in the order of the tables."""
GROUP_NAMES = {
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
    return UNSCALED if measure in UNITS else PERCENT


def arrow(measure: str) -> str:
    """The direction in which a measure gets better, as a figure says it."""
    return "↓" if measure in LESS_IS_BETTER else "↑"


def unit_of(measure: str) -> str:
    """The unit in which a measure is shown; empty for a number without one."""
    return UNITS.get(measure, "%")


def label(measure: str) -> str:
    """A measure in words, with its unit in brackets."""
    if measure == "combined":
        return "combined score [points]"
    words = (
        spoken(measure).replace("auc", "AUC").replace("text only", "text-only").replace("first token", "first-token")
    )
    unit = unit_of(measure)
    return f"{words} [{unit}]" if unit else words

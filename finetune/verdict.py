"""The verdict: one sentence on whether an adapter or a clamp helps, which flips alone never decide."""

from collections.abc import Iterable

from finetune.compare import Comparison

LEVEL = 0.05
"""A difference counts if its paired test has p below this and its interval excludes zero."""

JUDGED = {"question_flip_rate": "flips", "accuracy": "accuracy", "text_only_agreement": "text-only agreement"}
"""The measures that decide, as they are called in the sentence."""


def direction(change: Comparison) -> int:
    """-1 if the measure fell in the second arm, 1 if it rose, 0 if neither is shown."""
    shown = change.p < LEVEL and (change.difference.low > 0 or change.difference.high < 0)
    return (1 if change.difference.value > 0 else -1) if shown else 0


def judge(flips: int, accuracy: int, agreement: int) -> str:
    """The verdict from the directions of question-level flips, accuracy and text-only agreement.

    Improved needs fewer flips, no loss of accuracy, and no rise of the share of answers that stay without the image:
    a model that ignores the image is perfectly consistent.
    """
    if flips >= 0:
        return "worse" if flips > 0 or accuracy < 0 else "no improvement shown"
    if accuracy < 0:
        return "more consistent but less accurate" + (" and less grounded" if agreement > 0 else "")
    return "improved but less grounded" if agreement > 0 else "improved"


def verdict(comparisons: Iterable[Comparison], arm: str) -> str:
    """One sentence over all the questions: the verdict on the second arm, by its name, and what it rests on."""
    overall = {c.measure: c for c in comparisons if c.kind == "all" and c.measure in JUDGED}
    if len(overall) < len(JUDGED):
        return "Not judged: there are no closed questions with paraphrases."
    directions = {measure: direction(overall[measure]) for measure in JUDGED}
    reasons = [_reason(words, overall[measure], directions[measure]) for measure, words in JUDGED.items()]
    return f"{judge(*directions.values()).capitalize()}: with the {arm}, {', '.join(reasons)}."


def _reason(words: str, change: Comparison, direction: int) -> str:
    moved = {-1: "fell", 0: "did not change beyond chance", 1: "rose"}[direction]
    return f"{words} {moved} ({change.base.value:.1%} to {change.adapter.value:.1%}, p = {change.p:.2g})"

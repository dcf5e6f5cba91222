"""The tables of an evaluation by PSF-Med's own definitions (arXiv 2602.21428), beside ours."""

from typing import NamedTuple

from interp.schemas.evaluation import Evaluation
from interp.schemas.record import Interval
from interp.views.numbers import PERCENT
from interp.views.table import Cell, Column, Table, blank, count, estimate, tabulate, value, words

DEFINITIONS = (
    ("questions that flip", "question_flip_rate", "published_flip_rate", "by the margin's sign; by parsed answers"),
    (
        "answers that cannot be read",
        "unparsed",
        "published_excluded",
        "two words or none; none by the published parser",
    ),
    ("answers kept without the image", "text_only_agreement", "text_only_agreement_grey", "mean of four blanks; grey"),
    ("the same, on noise", "text_only_agreement_noise", "text_only_agreement_gaussian", "uniform; 128 ± 64"),
)
"""What is measured, our measure, the published one, and what they differ in: ours; theirs."""


class _Defined(NamedTuple):
    """One quantity of one arm by both definitions."""

    arm: str
    what: str
    ours: Interval | None
    theirs: Interval | None
    differ: str


def definitions_table(found: Evaluation) -> Table:
    """The same quantities by our definitions and by PSF-Med's; without rows if none was measured by theirs."""
    rows = [
        _Defined(arm, what, found.value_of(arm, ours), theirs, differ)
        for arm in (found.base, *found.shown)
        for what, ours, published, differ in DEFINITIONS
        if (theirs := found.value_of(arm, published)) is not None
    ]
    return tabulate(
        "Our definitions and PSF-Med's [%]",
        [
            words("arm", lambda row: row.arm),
            words("what", lambda row: row.what),
            Column("ours", lambda row: estimate(row.ours, PERCENT)),
            Column("PSF-Med's", lambda row: estimate(row.theirs, PERCENT)),
            words("they differ in", lambda row: row.differ),
        ],
        rows,
        "Its parser takes normal and clear for no, and falls back on the first word. Brackets: 95% intervals over "
        "patients.",
    )


def by_count_table(found: Evaluation) -> Table:
    """The flip rate of each arm by number of paraphrases; without rows for older files."""
    return tabulate(
        "Flips by number of paraphrases",
        [
            words("arm", lambda row: row.arm),
            Column("paraphrases", lambda row: Cell(str(row.paraphrases), row.paraphrases)),
            Column("questions", lambda row: count(row.questions)),
            Column("flips [%]", lambda row: estimate(row.flip_rate, PERCENT)),
            Column("with as many or more", lambda row: count(row.at_least)),
            Column("of these would flip [%]", lambda row: estimate(row.drawn_flip_rate, PERCENT)),
        ],
        found.by_count,
        "Flips: of the questions with exactly so many paraphrases, as published. Would flip: with so many of their "
        "paraphrases, drawn at random, which compares like questions. Brackets: 95% intervals over patients.",
    )


def flip_banks_table(found: Evaluation) -> Table:
    """The FlipBank of each arm; without rows for older files and where no answers were generated."""

    def similar(bank: object, name: str) -> Cell:
        number = getattr(bank, name)
        return blank() if number is None else value(number)

    encoder = next((bank.encoder for bank in found.flip_banks if bank.encoder), None)
    said = f"by {encoder}" if encoder else "not asked, since no sentence encoder was named"
    return tabulate(
        "FlipBank",
        [
            words("arm", lambda bank: bank.arm),
            Column("unambiguous pairs", lambda bank: count(bank.pairs)),
            Column("flips", lambda bank: count(bank.flips)),
            Column("median similarity", lambda bank: similar(bank, "similarity")),
            Column("in the bank", lambda bank: count(bank.banked)),
            Column("questions", lambda bank: count(bank.questions)),
            Column("patients", lambda bank: count(bank.patients)),
        ],
        found.flip_banks,
        "Flips of generated answers that say yes or no unambiguously, between wordings of a similarity above .95, "
        f"{said}.",
    )

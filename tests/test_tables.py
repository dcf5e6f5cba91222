"""Tables and numbers: one form everywhere, nothing cut off on a narrow terminal, meanings only of the columns shown."""

import io
import math

import pytest
from rich.console import Console

from interp.schemas.record import Interval
from interp.statistics import Estimate
from interp.views.numbers import PERCENT, interval, number, p_phrase, p_value
from interp.views.overview import Overview
from interp.views.table import Column, Table, count, estimate, p_cell, tabulate, value, words
from interp.views.terminal.show import show_overview

ENTRIES = [
    ("flips [x]", 1234, Interval(value=-0.256, low=-0.3, high=0.0), 0.0004),
    ("accuracy", 7, Interval(value=1.0, low=None, high=None), 0.04),
]


def table() -> Table:
    return tabulate(
        "Measures",
        [
            words("measure", lambda entry: entry[0], lambda entry: "a note"),
            Column("n", lambda entry: count(entry[1])),
            Column("difference from the base", lambda entry: estimate(entry[2], sign=True), meaning="arm minus base"),
            Column("p", lambda entry: p_cell(entry[3]), meaning="two-sided"),
            Column("twice", lambda entry: value(2 * entry[1]), narrow=False, meaning="two times n"),
        ],
        ENTRIES,
        "Brackets: 95% intervals.",
        [0],
        "marked",
    )


def printed(width: int) -> str:
    console = Console(width=width, file=io.StringIO(), highlight=False)
    show_overview(Overview("a model", ["It is so."], [("Questions", "9")], [table()], ["few"]), console)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (0.71249, "0.71"),
        (-0.001, "0.00"),
        (-1234.5, "−1,234.50"),
        (math.nan, "–"),
        (math.inf, "–"),
        (None, "–"),
    ],
)
def test_a_number_has_a_true_minus_and_no_negative_zero(found, said):
    assert number(found) == said


def test_an_interval_stands_in_brackets_without_a_break():
    assert interval(Estimate(0.71, 0.64, 0.77)) == "0.71 [0.64,\xa00.77]"
    assert interval(Estimate(-0.5, -0.6, 0.25), PERCENT, sign=True) == "−50.0 [−60.0,\xa0+25.0]"
    assert interval(Estimate(0.5, 0.4, 0.6), PERCENT, unit="%") == "50.0% [40.0,\xa060.0]"
    assert interval(Estimate(0.5, math.nan, math.nan)) == "0.50"
    assert interval(Interval(value=None, low=None, high=None)) == "–"


@pytest.mark.parametrize(
    ("p", "cell", "phrase"),
    [
        (0.0, "<\xa0.001", "p <\xa0.001"),
        (0.001, ".001", "p = .001"),
        (0.0124, ".012", "p = .012"),
        (1.0, "1.000", "p = 1.000"),
        (math.nan, "–", "p = –"),
    ],
)
def test_a_p_value_has_three_decimals_and_no_leading_zero(p, cell, phrase):
    assert (p_value(p), p_phrase(p)) == (cell, phrase)


def test_the_terminal_shows_the_narrow_columns_and_their_meanings():
    assert printed(80).replace("\xa0", " ") == (
        "\na model\nQuestions: 9\n\nMeasures\n"
        "                difference from the       \n"
        "measure       n                base      p\n"
        "──────────────────────────────────────────\n"
        "flips [x] 1,234   −.26 [−.30, +.00] < .001\n"
        "accuracy      7               +1.00   .040\n"
        "Difference from the base: arm minus base. p: two-sided. Brackets: 95% intervals.\n"
        "note: few\nIt is so.\n"
    )


def test_a_table_in_a_pipe_wraps_its_texts_to_80_columns_but_breaks_no_number_and_no_word(capsys):
    wide = Interval(value=-0.256, low=-0.3, high=0.25)
    named = words("what is exchanged", lambda name: name)
    intervals = [Column(f"recovery {k}", lambda _: estimate(wide)) for k in range(6)]
    # The first column takes the rest of 80 columns, and at least its longest word.
    for n, first, width in (
        (3, ["the residual", "17:13818 and its relatives"], 77),
        (4, ["the residual", "17:13818 and"], 80),
        (6, ["the", "17:13818"], 111),
    ):
        rows = ["the residual", "17:13818 and its relatives"]
        patches = tabulate("Patches", [named, *intervals[:n]], rows, "What it is. " * 20)
        show_overview(Overview("a model", [], [], [patches]))
        drawn, _, note = capsys.readouterr().out.replace("\xa0", " ").partition("What it is.")
        assert max(map(len, drawn.splitlines())) == width
        assert max(map(len, note.splitlines())) <= 80
        found = [line for line in drawn.splitlines() if line.count("−.26 [−.30, .25]") == n]
        assert [line.split(" −.26")[0].strip() for line in found] == first


@pytest.mark.parametrize("width", [20, 30, 40, 60])
def test_nothing_is_cut_off_on_a_narrow_terminal(width):
    letters = "".join(printed(width).split())
    for cell in ("measure", "flips", "[x]", "accuracy", "1,234", "−.26", "+.00]", "<.001", ".040"):
        assert cell in letters
    assert "…" not in letters


def test_every_cell_has_what_it_is_sorted_by():
    orders = [[cell.order for cell in row] for row in table().rows]
    assert orders == [[None, 1234, -0.256, 0.0004, 2468], [None, 7, 1.0, 0.04, 14]]
    assert table().explanation == (
        "Difference from the base: arm minus base. p: two-sided. Twice: two times n. Brackets: 95% intervals."
    )

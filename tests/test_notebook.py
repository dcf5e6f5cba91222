"""Results in Jupyter: HTML that says what the tables say, with all text escaped; figures with axes and without."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from typing import get_args

import pytest
from matplotlib.figure import Figure

import interp
from interp.schemas.rules import Rule
from interp.views.notebook import overview_html, plotted, table_html
from interp.views.numbers import NONE
from interp.views.overview import Overview
from interp.views.table import Cell, Column, Table
from interp.views.tables.feature import conclusion, study_facts
from interp.views.tables.ranges import formality_line, range_line


class Cells(HTMLParser):
    """Rows of cells, and every tag, of some HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows, self.tags, self.text, self.inside = [], set(), "", False
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data):
        self.text += data
        if self.inside:
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def vlm():
    return interp.load_vlm(dtype="float32")


@pytest.fixture(scope="module")
def questions():
    return interp.load_questions(split="train")[:200]


@pytest.fixture(scope="module")
def result(vlm, questions):
    return interp.find_features(vlm, interp.WORLD / "saes", questions, layers=[4, 5, 6], split="train")


@pytest.fixture(scope="module")
def study(vlm, questions):
    sae = interp.load_sae(interp.locate_saes(interp.WORLD / "saes")[6], 6, vlm.d_model)
    return interp.study_feature(vlm, sae, questions, 156)


def test_a_table_is_the_same_in_html_with_its_text_escaped():
    columns = [
        Column("arm", Cell, numeric=False),
        Column("share [%]", Cell),
        Column("only in the report", Cell, narrow=False),
    ]
    rows = [
        [Cell("<b>x</b>"), Cell("0.1 [0.0, 0.2]"), Cell("a")],
        [Cell("[red]y"), Cell("2\n[1, 3]"), Cell("b")],
    ]
    html = table_html(Table("A & B", columns, rows, "<script>alert(1)</script>", frozenset({0})))
    found = Cells(html)
    assert found.rows == [["arm", "share [%]"], ["<b>x</b>", "0.1 [0.0, 0.2]"], ["[red]y", "2[1, 3]"]]
    assert "script" not in found.tags
    assert "A & B" in found.text
    assert "<script>alert(1)</script>" in found.text
    assert html.count("font-weight:bold") == 1
    assert "2<br>[1, 3]" in html
    assert html.count("text-align:left") == 3


def test_a_page_gives_the_conclusion_first_and_escapes_it():
    page = Overview("of a model", ["<img src=x>"], [("a", "< b")], notes=["note"])
    found = Cells(overview_html(page))
    assert found.tags == {"div", "p", "b", "i"}
    assert re.sub(r"\s+", " ", found.text).strip() == "<img src=x> of a model a: < b note"


def read(cell):
    """The numbers in a cell."""
    return [float(number) for number in re.findall(r"-?\d*\.\d+", cell.replace("−", "-"))]


def ends(measured):
    """An estimate with the ends of its interval, as far as there are any."""
    return [end for end in (measured.value, measured.low, measured.high) if end is not None]


def test_a_search_shows_verdict_range_and_every_interval_of_its_profile(result):
    html = result._repr_html_()
    found = Cells(html)
    first = html.index(result.artifact.verdict)
    assert first < html.index(f"{result.artifact.data.questions} yes/no questions") < html.index("<table")
    assert range_line(result.artifact) in found.text
    assert formality_line(result.artifact) in found.text
    rows = [row for row in found.rows if row[0] in ("4", "5", "6")]
    for row, entry in zip(rows, result.artifact.profile, strict=True):
        for place, name in ((1, "answer"), (4, "register_patch"), (6, "recovery")):
            assert read(row[place]) == pytest.approx(ends(getattr(entry, name)), abs=0.0051), name
        assert (row[3] == NONE) == (entry.layer == 4), "the first layer may hold what lower ones made"
        if entry.answer_growth is not None:
            assert read(row[3]) == pytest.approx(ends(entry.answer_growth), abs=0.0051)
    ranges = {row[0]: row for row in found.rows if row[0] in get_args(Rule)}
    for entry in result.artifact.ranges:
        for place, name in ((2, "share"), (3, "formed"), (4, "arrived"), (5, "restored"), (7, "broken")):
            assert read(ranges[entry.rule][place]) == pytest.approx(ends(getattr(entry, name)), abs=0.0051), name
    assert [len(row) for row in found.rows if re.fullmatch(r"\d+:\d+", row[0])] == [11] * min(
        10, len(result.artifact.features)
    )


def test_no_question_is_in_what_a_result_says_of_itself(result, study, questions):
    said = [f(x) for x in (result, study) for f in (repr, str, lambda shown: shown._repr_html_())]
    for text in {q.question for q in questions} | {questions[0].image}:
        assert not any(text in each for each in said)
    assert len(repr(result)) < 120
    assert repr(study) == f"<FeatureStudy of 6:156 in {study.sae}, planted>"


def test_a_study_shows_its_conclusion_first_and_its_tables(study):
    html = study._repr_html_()
    found = Cells(html)
    text = re.sub(r"\s+", " ", found.text)
    assert text.strip().startswith(re.sub(r"\s+", " ", " ".join(conclusion(study))))
    assert all(re.sub(r"\s+", " ", f"{name}: {fact}") in text for name, fact in study_facts(study))
    assert ["4", str(study.grid.levels[-1].prompts)] in [row[:2] for row in found.rows]
    # Six cells make a row of recoveries; where the feature is active has five.
    groups = [row for row in found.rows if len(row) == 6 and row[1] in ("finding", "phenomenon", "registers")]
    assert len(groups) == len(study.groups)


@pytest.mark.parametrize(
    ("of", "name", "label"),
    [
        ("result", "plot_margin", "change of answer margin [logits],\nparaphrase − original"),
        ("result", "plot_register", "share of wordings\nwith a higher one"),
        ("study", "plot_margin", "change of answer margin [logits],\nparaphrase − original"),
        ("study", "plot_dose", "recovered share\nof the margin shift"),
        ("study", "plot_groups", ""),
        ("study", "plot_grid", "activation\nat the final token"),
    ],
)
def test_a_figure_goes_into_axes_given_or_into_one_that_pyplot_shows(of, name, label, request):
    from matplotlib import pyplot

    plot = getattr(request.getfixturevalue(of), name)
    pyplot.close("all")
    left, right = Figure().subplots(1, 2)
    assert plot(right) is right
    assert right.has_data()
    assert not left.has_data()
    assert not pyplot.get_fignums()
    own = plot()
    assert own.get_ylabel() == label == right.get_ylabel()
    assert pyplot.get_fignums() == [own.figure.number]
    pyplot.close("all")


def test_the_profile_has_two_axes(result):
    from matplotlib import pyplot

    axes = Figure().subplots(2, 1)
    assert result.plot_profile(axes) == list(axes)
    assert [ax.get_ylabel() for ax in axes] == ["flip AUC", "recovered share\nof the margin shift"]
    above, _ = result.plot_profile()
    (line, *_) = above.containers
    assert line[0].get_ydata() == pytest.approx([entry.flip_auc.value for entry in result.artifact.profile])
    pyplot.close("all")


def test_axes_are_drawn_without_pyplot():
    code = (
        "import sys; from matplotlib.figure import Figure; import pandas; from interp.views.notebook import plotted;"
        "plotted(lambda frame, ax: ax.figure, pandas.DataFrame(), Figure().subplots());"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_what_was_not_tested_can_not_be_drawn(result, study):
    from dataclasses import replace

    nothing = replace(result, artifact=result.artifact.model_copy(update={"features": []}))
    for plot in (nothing.plot_margin, nothing.plot_register):
        with pytest.raises(interp.InputError, match="No feature was tested"):
            plot()
    untested = study.model_copy(update={"test": None})
    for plot in (untested.plot_dose, untested.plot_groups):
        with pytest.raises(interp.InputError, match="no causal test"):
            plot()


def test_plotted_returns_the_axes_that_it_was_given():
    ax = Figure().subplots()
    assert plotted(lambda frame, ax: ax.figure, None, ax) is ax

"""The values that a chart of the report shows: they are those of the data, at the places where they are drawn."""

import re
from xml.etree import ElementTree

import pytest
from figure_data import evaluation_of, layers_of, pairs_of

from interp.views.figures.evaluation import changes_against_base, changes_frame, reliability, reliability_frame
from interp.views.figures.margin import delta_against_margin
from interp.views.figures.profile import layer_profile
from interp.views.report.marks import MOST_POINTS
from interp.views.report.svg import Styles, inline_svg


def drawn(figure) -> tuple[list[tuple[float, float, str]], ElementTree.Element]:
    """The marks of a figure as (x, y, text), and its SVG."""
    root = ElementTree.fromstring(str(inline_svg(figure, "chart", "A chart", Styles())))
    rings = [e for e in root.iter("circle") if e.get("class") == "mark"]
    return [(float(e.get("cx")), float(e.get("cy")), e.find("title").text) for e in rings], root


def test_marks_stand_where_the_markers_are_drawn_and_say_the_values_of_the_data():
    artifact = layers_of(8)
    marks, root = drawn(layer_profile(artifact))
    # matplotlib draws a marker as a use element at the place of its value.
    markers = {(round(float(e.get("x"))), round(float(e.get("y")))) for e in root.iter("use") if e.get("x")}
    texts = {text: (x, y) for x, y, text in marks}
    for entry in artifact.profile:
        auc = entry.flip_auc
        said = f"flip AUC of the chosen features, held out, layer {entry.layer}: "
        (text,) = [text for text in texts if text.startswith(said)]
        assert text == f"{said}{auc.value:.2f} [{auc.low:.2f},\xa0{auc.high:.2f}]".replace("-", "−")
        x, y = texts[text]
        assert any(abs(x - a) <= 1 and abs(y - b) <= 1 for a, b in markers)
    residual = [text for text in texts if text.startswith("residual patch, layer")]
    assert residual == [f"residual patch, layer {e.layer}: {e.recovery.value:.2f}" for e in artifact.profile]
    assert sum(text.startswith("growth of the answer patch, layer") for text in texts) == 7


def test_a_value_of_a_row_is_named_by_its_row():
    evaluation = evaluation_of(1)
    marks, _ = drawn(changes_against_base(changes_frame(evaluation.model_dump())))
    arm = evaluation.shown[0]
    difference = evaluation.find(arm, "swap_sensitivity").difference
    ends = [f"{100 * end:.2f}".replace("-", "−") for end in (difference.value, difference.low, difference.high)]
    assert f"{arm}, swap sensitivity: {ends[0]} [{ends[1]},\xa0{ends[2]}]" in [text for *_, text in marks]


def test_the_counts_inside_a_reliability_curve_are_no_values_of_it():
    evaluation = evaluation_of(1)
    marks, _ = drawn(reliability(reliability_frame(evaluation.model_dump())))
    said = [text for *_, text in marks if text.startswith("base, confidence")]
    enough = [point for point in evaluation.reliability if point.arm == "base" and point.n >= 10]
    assert len(said) == len(enough)
    values = [float(re.search(r": ([\d.]+)", text)[1]) for text in said]
    assert values == pytest.approx([point.accuracy for point in enough], abs=0.006)


def test_a_dense_chart_has_a_bounded_number_of_values():
    marks, root = drawn(delta_against_margin(pairs_of(500)))
    assert len(marks) <= 2 * MOST_POINTS
    assert len(list(root.iter("use"))) > 450, "every pair is drawn"
    width, height = (float(n) for n in root.get("viewBox").split()[2:])
    assert all(0 <= x <= width and 0 <= y <= height for x, y, _ in marks)

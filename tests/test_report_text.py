"""The wordings of a feature study in the report: shown when asked for, always on the embedded world; links to pages."""

import json

import pandas as pd
import pytest
from figure_data import study_folder
from pages import Page

from interp.views.report.collect import collect
from interp.views.report.render import render

SECRET = "Is there something on the film?"
BANNER = "This page shows wordings of your questions"


@pytest.fixture(autouse=True)
def without_charts(monkeypatch):
    """Pages without charts, which these tests do not look at and which take most of the time."""
    monkeypatch.setattr("interp.views.report.charts.draw_all", lambda found, styles: {})


@pytest.fixture
def run(tmp_path):
    folder = study_folder(tmp_path / "run" / "feature")
    columns = {"end": ["most"], "text": [SECRET], "images": [2], "mean_activation": [3.5], "register": ["formal"]}
    pd.DataFrame(columns).to_csv(folder / "wordings.csv", index=False)
    return tmp_path / "run"


def changed(run, **content):
    path = run / "feature" / "study.json"
    study = json.loads(path.read_text())
    study["content"] |= content.pop("inside", {})
    path.write_text(json.dumps(study | content))
    return run


def test_wordings_are_shown_on_demand_and_with_a_banner(run):
    without, with_text = (render(collect(run, include_text=include)) for include in (False, True))
    assert SECRET not in without
    assert BANNER not in without
    assert SECRET in with_text
    assert BANNER in with_text


def test_wordings_of_the_embedded_world_are_no_secret(run):
    shown = render(collect(changed(run, inside={"synthetic": True})))
    assert SECRET in shown
    assert BANNER not in shown


def test_pages_are_links_and_approximate_ones_say_so(run):
    address = "https://www.neuronpedia.org/gemma-3-4b-it/17-gemmascope-2-res-16k/3818"
    near = {"address": address, "layer": 17, "feature": 3818, "sae": "s", "cosine": 0.81}
    shown = render(collect(changed(run, inside={"nearest_page": near})))
    assert f'<a href="{address}" rel="noreferrer noopener">' in shown
    assert "Neuronpedia, approximate" in shown
    assert "decoder cosine 0.81" in shown
    exact = render(collect(changed(run, neuronpedia=address)))
    assert "Neuronpedia, approximate" not in exact
    assert f'<a href="{address}"' in exact
    hostile = render(collect(changed(run, neuronpedia='https://www.neuronpedia.org/"onclick=x')))
    assert 'neuronpedia.org/"onclick' not in hostile


def test_tokens_and_firing_stand_in_the_report(run):
    tables = Page(render(collect(run))).tables
    (tokens,) = (rows for caption, rows in tables.items() if "promotes and suppresses" in caption)
    assert tokens[1] == ["' no'", "+0.200", "'yes'", "−0.100"]
    (firing,) = (rows for caption, rows in tables.items() if caption.endswith("is active"))
    assert firing[1][:3] == ["formal", "register", "9"]

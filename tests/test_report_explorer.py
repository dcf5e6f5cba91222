"""The explorers of the report: they hold what the files hold, within bounds, and text only on demand."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from pages import Page
from report_items import search_items, write_items_of, write_screened
from report_run import FINGERPRINTS, Draw, edit, write_adapter, write_search

from interp.runtime.errors import InputError
from interp.schemas.items import ITEMS, write_items
from interp.sharing.scrub import scrub
from interp.views.report.collect import collect
from interp.views.report.explorer import LONGEST, shares_of
from interp.views.report.feature_explorer import FEATURES_SHOWN
from interp.views.report.item_explorer import ITEMS_SHOWN
from interp.views.report.render import render, write_report


@pytest.fixture(autouse=True)
def without_charts(monkeypatch):
    """Pages without charts, which these tests do not look at and which take most of the time."""
    monkeypatch.setattr("interp.views.report.charts.draw_all", lambda found, styles: {})


SITE = "https://www.neuronpedia.org"


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A search and an evaluation with items and texts, and 40 screened features."""
    run = tmp_path_factory.mktemp("kept")
    write_search(run, Draw())
    write_adapter(run / "adapter", Draw())
    (run / "adapter/history.csv").unlink()
    write_items_of(run, 64, 50, include_text=True)
    write_screened(run, 40)
    return run


@pytest.fixture
def html(kept):
    return render(collect(kept))


def explored(html: str, name: str) -> pd.DataFrame:
    """The rows that the script of the page gets, as a table with the headings that it shows."""
    block = html[html.index(f'id="{name}"') :]
    text = re.search(r'<script type="application/json">(.*?)</script>', block, re.DOTALL)[1]
    content = json.loads(text)
    columns = {}
    for field, column in zip(content["fields"], content["columns"], strict=True):
        values = column.get("numbers", column.get("links"))
        if values is None:
            values = [None if code < 0 else column["texts"][code] for code in column["codes"]]
        columns[field["heading"]] = values
    found = pd.DataFrame(columns)
    assert len(found) == content["rows"]
    return found


def test_the_items_of_a_search_are_those_of_its_file_flips_first(html):
    found = explored(html, "items-0")
    table = search_items(64)
    order = [*np.flatnonzero(table["flipped"]), *np.flatnonzero(~table["flipped"])]
    table = table.iloc[order].reset_index(drop=True)
    assert found["question"].tolist() == table["question_key"].tolist()
    assert found["flips"].tolist() == ["yes"] * 8 + ["no"] * 56
    assert found["margin, wording"].tolist() == pytest.approx(table["margin_wording"].tolist(), abs=0.006)
    assert found["finding"].tolist() == table["finding"].tolist()
    assert found["half"].tolist() == ["held out" if held else "selection" for held in table["held_out"]]
    assert found["recovery"].isna().all()
    assert not {"original wording", "wording asked"} & set(found)


def test_which_wordings_an_adapter_broke_and_repaired_is_a_column(kept, html):
    found = explored(html, "items-1")
    table = pd.read_parquet(kept / "adapter/evaluation_items.parquet").set_index(["question_key", "wording"])
    counts = found["consistency"].value_counts().to_dict()
    before, after = table["flipped_before"], table["flipped_after"]
    assert counts["broken"] == (~before & after).sum()
    assert counts["repaired"] == (before & ~after).sum()
    assert found["consistency"].isna().sum() == 10, "the originals"
    for row in found.itertuples(index=False):
        entry = table.loc[(row.question, int(row.wording))]
        right = {True: "right", False: "wrong"}
        moved = (right[bool(entry.correct_before)], right[bool(entry.correct_after)])
        assert row.correctness == (f"{moved[0]} → {moved[1]}" if moved[0] != moved[1] else f"{moved[0]} in both")


def test_wordings_are_shown_on_demand_and_escaped(kept, tmp_path):
    hostile = "</script><script>pwned=1</script><!-- & \u2028"
    table = search_items(8).assign(text=hostile, finding=hostile)
    run = tmp_path / "run"
    write_search(run, Draw())
    write_items(run / ITEMS, table, "search", FINGERPRINTS["search"], include_text=True)
    without, with_text = (render(collect(run, include_text=include)) for include in (False, True))
    assert "original 3" not in without
    assert "This page shows wordings of your questions" not in without
    assert explored(with_text, "items-0")["wording asked"].tolist() == [hostile] * 8
    assert "This page shows wordings of your questions" in with_text
    for html in (without, with_text):
        assert "<script>pwned" not in html
        scripts = [e for e in Page(html).elements if e.tag == "script"]
        assert [e.attributes.get("type") for e in scripts if e.attributes] == ["application/json"] * (len(scripts) - 1)


def test_scrub_finds_a_wording_that_the_page_holds_for_its_script(tmp_path):
    said = 'Is the "left" costophrenic angle blunted & the dome raised?'
    question = {"id": "a", "image": "a.png", "type": "presence", "question": said}
    (tmp_path / "q.jsonl").write_text(json.dumps(question | {"paraphrases": []}))
    write_search(tmp_path / "run", Draw())
    table = search_items(8).assign(text=said, original="x", id="y")
    write_items(tmp_path / "run" / ITEMS, table, "search", FINGERPRINTS["search"], include_text=True)
    for include in (False, True):
        page = tmp_path / f"page-{include}"
        page.mkdir()
        write_report(tmp_path / "run", page / "report.html", include_text=include)
        assert bool(scrub(page, [tmp_path / "q.jsonl"]).findings) == include


def test_text_that_was_not_kept_cannot_be_shown(tmp_path):
    write_search(tmp_path, Draw())
    write_items(tmp_path / ITEMS, search_items(8), "search", FINGERPRINTS["search"])
    html = render(collect(tmp_path, include_text=True))
    assert "wording asked" not in html
    assert "This page shows wordings" not in html


def test_damaged_items_are_named(kept, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(kept, run)
    (run / ITEMS).write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"items\.parquet: no items of GateScope"):
        collect(run)


def test_tested_features_come_first_then_those_that_discriminate_best(kept, html):
    found = explored(html, "features-screened")
    table = pd.read_parquet(kept / "features.parquet")
    assert len(found) == 40
    assert sorted(found["feature"][:3]) == ["1:20", "2:7", "3:500"]
    others = table[table["place"].isna()].assign(strength=lambda t: (t["flip_auc"] - 0.5).abs())
    best = others.sort_values("strength", ascending=False)
    assert found["feature"][3:].tolist() == [f"{row.layer}:{row.feature}" for row in best.itertuples()]
    assert found["density [%]"][3:].tolist() == pytest.approx((100 * best["density"]).tolist(), abs=0.06)
    assert "Neuronpedia" not in found, "no SAE has pages"
    assert "Find one: search 1:20." in html


def test_features_link_to_their_own_page_or_to_the_nearest_and_say_which(kept, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(kept, run)
    source = {"folder": "f", "repository": "r", "revision": "c", "release": "s", "digest": "0"}
    near = {"layer": 1, "feature": 9, "sae": "f", "cosine": 0.8149}

    def paged(layers):
        layers["sae_sources"] = [source | {"layer": layer, "neuronpedia": None} for layer in range(4)]
        layers["sae_sources"][1]["neuronpedia"] = "gemma-3-4b-it/1-gemmascope-2-res-16k"
        layers["features"][1]["nearest_page"] = near | {"address": f"{SITE}/gemma-3-4b-it/1-gemmascope-2-res-16k/9"}
        layers["features"][2]["nearest_page"] = near | {"address": "javascript:pwned=1"}

    edit(run / "layers.json", paged)
    html = render(collect(run))
    links = explored(html, "features-screened").set_index("feature")["Neuronpedia"]
    assert links["1:20"] == ["page", f"{SITE}/gemma-3-4b-it/1-gemmascope-2-res-16k/20"]
    assert links["2:7"] == ["≈ 1:9 (0.81)", f"{SITE}/gemma-3-4b-it/1-gemmascope-2-res-16k/9"]
    assert links["3:500"] is None
    assert "javascript:" not in html
    cards = " ".join(Page(html).texts["features"].split())
    assert f"Neuronpedia {SITE}/gemma-3-4b-it/1-gemmascope-2-res-16k/20" in cards
    assert f"Neuronpedia, approximate {SITE}/gemma-3-4b-it/1-gemmascope-2-res-16k/9 1:9 (0.81), by decoder" in cards
    layers = [name.split(":")[0] for name in links.index]
    assert all((link is not None) == (layer == "1") for layer, link in zip(layers[3:], links[3:], strict=True))


def test_the_page_of_a_large_run_is_bounded(tmp_path):
    write_search(tmp_path / "run", Draw())
    write_adapter(tmp_path / "run/adapter", Draw())
    write_items_of(tmp_path / "run", 20_000, 45_000)
    write_screened(tmp_path / "run", 30_000)
    write_report(tmp_path / "run", tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text()
    assert len(html.encode()) < 2_500_000
    searched, evaluated = (explored(html, f"items-{i}") for i in range(2))
    assert len(searched) + len(evaluated) == ITEMS_SHOWN == 10_000
    assert (searched["flips"] == "yes").sum() == 20_000 / 8, "no flip is left out for a pair that does not"
    assert len(explored(html, "features-screened")) == FEATURES_SHOWN == 1000
    assert "1,000 of 30,000 features" in html
    assert "5,000 of 45,000 wordings, what flips or changes first" in html


def test_long_wordings_end_with_an_ellipsis(tmp_path):
    write_search(tmp_path, Draw())
    table = search_items(8).assign(text="w" * 1000)
    write_items(tmp_path / ITEMS, table, "search", FINGERPRINTS["search"], include_text=True)
    (text,) = set(explored(render(collect(tmp_path, include_text=True)), "items-0")["wording asked"])
    assert text == "w" * (LONGEST - 1) + "…"


@pytest.mark.parametrize(
    ("room", "sizes", "shown"),
    [(10, [3, 4], [3, 4]), (10, [20, 20], [5, 5]), (10, [2, 20, 20], [2, 4, 4]), (10, [], []), (10, [50], [10])],
)
def test_small_tables_are_shown_whole_and_the_others_share_the_rest(room, sizes, shown):
    assert shares_of(room, sizes) == shown

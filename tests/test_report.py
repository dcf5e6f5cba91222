"""The report: it shows the numbers of the files and nothing that is absent, and foreign content stays inert."""

import base64
import hashlib
import json
import re
import shutil
from io import BytesIO
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import yaml
from browser import CHROMIUM, DRIVER, chromium
from pages import Page, numbers
from PIL import Image
from report_run import FINGERPRINTS, Draw, edit, write_adapter, write_run, write_search

from finetune.ablation.metrics import METRICS
from finetune.evaluation.measures import MEASURES
from finetune.evaluation.quadrants import QUADRANTS
from finetune.grounding.score_table import GROUNDING_SCORES
from interp.cli.app import app
from interp.runtime.errors import InputError
from interp.schemas.ablation import METRICS as SHOWN_METRICS
from interp.schemas.layers import GateVerdict
from interp.schemas.read import cleaned
from interp.sharing.file_contents import contents_of
from interp.views import labels
from interp.views.report import origins
from interp.views.report.collect import collect
from interp.views.report.render import render, write_report

SECTIONS = ["verdict", "profile", "features", "training", "before-after", "quadrants", "grounding", "ablation"]
HOSTILE = (
    "</style></title><script>pwned=1</script><img src=x onerror=pwned=2>\"'`{{7*7}}$\\frac{x}$<b>&amp;"
    "javascript:pwned=3"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_run(folder)
    return folder


@pytest.fixture(scope="module")
def html(run):
    """The page of the whole run, without examples."""
    return render(collect(run))


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


@pytest.fixture
def without_charts(monkeypatch):
    """Pages of text and tables alone, for tests that look at nothing else: drawing takes most of the time."""
    monkeypatch.setattr("interp.views.report.charts.draw_all", lambda found, styles: {})


def content(path: Path):
    return json.loads(path.read_text())


def shown(estimate: dict, scale: float = 1, digits: int = 2) -> list[float]:
    """Value, low and high as they should be printed."""
    return [round(scale * estimate[end], digits) + 0.0 for end in ("value", "low", "high")]


# ---- what is on the page, against the files ----


def test_the_verdict_comes_first_with_reason_range_and_what_it_beat(run, page, html):
    found = content(run / "layers.json")
    headings = [e for e in page.elements if e.tag in ("h1", "h2")]
    assert headings[0].tag == "h1"
    assert headings[0].section == "verdict"
    text = page.texts["verdict"]
    assert "Gate found in layers 1-2" in text
    assert "Layers 1-2 make 0.91 of the flipped answers." in text
    known = page.texts["profile"]
    assert "layers 1-2, by rule answer, peak 2" in known
    assert "120 yes/no questions of 77 patients, train split" in known
    assert re.search(r"31 of 480 \([\d.]+% \[.*?\]\); flip bank: 22", known)
    verdict = content(run / "adapter/evaluation.json")["verdicts"]["adapter"]
    assert html.index("Gate found in") < html.index(verdict["label"]) < html.index('id="profile"')
    grounds = verdict["sentence"].partition(":")[2].strip()
    assert grounds.lower() in " ".join(page.texts["before-after"].split()).lower()
    rows = page.table("What it was measured against")
    taken, formality = found["ranges"][0], found["formality"]
    beside = {
        "share": taken["formed"],
        "arrived": found["profile"][0]["random_patch"],
        "restored": taken["random_restored"],
        "broken": taken["random_broken"],
    }
    for row, (measured, control) in zip(rows[:4], beside.items(), strict=True):
        assert "layers 1-2" in row[0]
        assert numbers(row[1]) == shown(taken[measured])
        assert numbers(row[2]) == shown(control)
    assert "layer 1" in rows[4][0]
    assert numbers(rows[4][1]) == shown(formality["recovery"])
    assert numbers(rows[4][2]) == shown(formality["random"])
    assert numbers(rows[5][1]) == shown(found["features"][0]["causal"]["recovery"])
    assert len(rows) == 6


def test_every_arm_is_one_row_at_the_top_with_what_decided(run, page):
    found = content(run / "adapter/evaluation.json")
    verdict = found["verdicts"]["adapter"]
    whole = {c["measure"]: c for c in found["comparisons"] if c["kind"] == "all"}
    (row,) = page.table("Adapters and clamps")
    assert row[0] == "adapter adapter/evaluation.json, 150 questions of 66 patients"
    assert row[1] == verdict["label"]
    assert len(row) == 2 + len(verdict["axes"])
    for cell, axis in zip(row[2:], verdict["axes"], strict=True):
        entry = whole[axis["measure"]]
        ends = [round(100 * entry[end]["value"], 1) for end in ("before", "after")]
        assert numbers(cell) == [*ends, *shown(entry["difference"], 100, 1)]
        assert cell.endswith(axis["state"])


def test_an_adapter_that_was_evaluated_twice_is_told_apart_by_source_and_number(without_charts, tmp_path):
    write_adapter(tmp_path / "adapter", Draw())
    shutil.copy(tmp_path / "adapter/evaluation.json", tmp_path / "evaluation.json")
    edit(tmp_path / "evaluation.json", lambda c: c.update(questions=99, patients=40))
    page = Page(render(collect(tmp_path)))
    names = [row[0] for row in page.table("Adapters and clamps")]
    assert names == [
        "adapter evaluation.json, 99 questions of 40 patients",
        "adapter adapter/evaluation.json, 150 questions of 66 patients",
    ]
    for section in ("before-after", "quadrants"):
        assert all(name.removeprefix("adapter ") in page.texts[section] for name in names)


def test_one_seed_is_called_one_seed(without_charts, tmp_path):
    write_run(tmp_path)
    edit(tmp_path / "ablation/ablation.json", lambda c: c["settings"].update(seeds=[4]))
    page = Page(render(collect(tmp_path)))
    assert page.table("3 arms on 140 questions of 60 patients, one seed an arm (4)")
    assert "and seeds" not in page.texts["ablation"].replace("other patients and seeds", "")
    assert "over patients alone, as every arm has one seed" in page.texts["ablation"]
    assert "One training seed each (adapter) (adapter)" in page.texts["limits"]
    clamped = tmp_path / "adapter/evaluation.json"
    edit(clamped, lambda c: c["arms"].update(adapter=[{"layer": 1, "feature": 2, "value": 0.0, "where": "final"}]))
    assert "training seed" not in Page(render(collect(tmp_path))).texts["limits"], "a clamp is not trained"


@pytest.mark.parametrize("part", ["layers.json", "adapter/gatescope.json", "ablation/ablation.json"])
def test_that_the_model_is_synthetic_is_said_first(run, html, without_charts, tmp_path, part):
    assert "synthetic" not in html
    write_run(tmp_path)
    edit(tmp_path / part, lambda c: c["model"].update(synthetic=True))
    said = render(collect(tmp_path))
    assert said.index("The model is synthetic.") < said.index("Gate found in")


def test_every_section_but_the_verdict_is_closed_with_its_gist(run, page):
    (verdict, *others) = page.ids("section")
    closed = [e.section for e in page.elements if e.tag == "details" and "part" in e.attributes.get("class", "")]
    assert closed == others
    assert not [e for e in page.elements if e.tag == "details" and e.section == verdict]
    assert not [e for e in page.elements if "part" in e.attributes.get("class", "") and "open" in e.attributes]
    flips = next(
        c for c in content(run / "adapter/evaluation.json")["comparisons"] if c["measure"] == "question_flip_rate"
    )
    ends = [f"{100 * flips[end]['value']:.1f}" for end in ("before", "after")]
    assert f"adapter: question flip rate [%] {ends[0]} → {ends[1]}" in page.texts["before-after"]
    assert "3 tested, first 1:20 (echo); 3 screened; 17:103818 in detail" in page.texts["features"]


def test_every_rule_s_range_stands_beside_what_it_has_to_beat(run, page):
    ranges = content(run / "layers.json")["ranges"]
    rows = page.table("The range by each rule")
    assert [row[0].split()[0] for row in rows] == ["answer", "write", "near-peak"]
    assert [("the rule of this search" in row[0]) for row in rows] == [True, False, False]
    assert [row[1] for row in rows] == ["1-2", "1-3", "0-2"]
    for row, entry in zip(rows, ranges, strict=True):
        assert row[2] == str(entry["peak"])
        for place, name in ((3, "share"), (4, "formed"), (5, "arrived"), (6, "restored"), (8, "broken")):
            assert numbers(row[place]) == shown(entry[name]), name
        for place, name in ((7, "random_restored"), (9, "random_broken")):
            assert numbers(row[place]) == [round(entry[name]["value"], 2) + 0.0]


@pytest.mark.parametrize(
    ("holds", "said"),
    [(True, "The register makes the flips:"), (False, "The register is not shown to make the flips:")],
)
def test_whether_the_register_makes_the_flips_is_one_sentence(without_charts, tmp_path, holds, said):
    write_search(tmp_path, Draw())
    edit(tmp_path / "layers.json", lambda c: c["formality"].update(holds=holds))
    formality = content(tmp_path / "layers.json")["formality"]
    text = " ".join(Page(render(collect(tmp_path))).texts["profile"].split())
    (sentence,) = re.findall(rf"{said} [^)]*\)", text)
    measured = sentence.partition("recovers")[2]
    assert "after layer 1" in sentence
    assert numbers(measured) == [*shown(formality["recovery"]), shown(formality["random"])[0]]


def test_a_search_before_the_answer_patch_shows_what_it_had(without_charts, tmp_path):
    write_search(tmp_path, Draw())

    def older(c):
        c.update(schema_version=2, rule="write", ranges=[{"rule": "write", "first": 1, "last": 2, "peak": 2}])
        del c["formality"]
        for entry in c["profile"]:
            for name in ("answer", "random_answer", "answer_growth", "register_patch", "random_register"):
                del entry[name]

    edit(tmp_path / "layers.json", older)
    found, page = content(tmp_path / "layers.json"), Page(render(collect(tmp_path)))
    rows = page.table("What it was measured against")
    best = max(found["profile"], key=lambda entry: entry["flip_auc"]["value"])
    assert numbers(rows[0][1]) == shown(best["flip_auc"])
    assert numbers(rows[0][2]) == [0.61]
    for row, layer in zip(rows[1:3], (1, 2), strict=True):
        assert f"layer {layer}" in row[0]
        assert numbers(row[1]) == shown(found["profile"][layer]["write"])
        assert numbers(row[2]) == shown(found["profile"][layer]["random_write"])
    assert numbers(rows[3][1]) == shown(found["features"][0]["causal"]["recovery"])
    for row, entry in zip(page.table("Layer profile"), found["profile"], strict=True):
        for place, name in ((1, "flip_auc"), (2, "recovery"), (4, "write"), (6, "net_feature_patch"), (8, "r2")):
            assert numbers(row[place]) == shown(entry[name]), name
    assert [row[:3] for row in page.table("The range by each rule")] == [["write the rule of this search", "1-2", "2"]]
    assert "answer patch" not in page.texts["profile"].lower()
    assert "register makes" not in page.texts["profile"]


VERDICTS = (
    ("gate found", [1, 2], "Gate found in layers 1-2", ""),
    ("arrives from the question", [1, 2], "The difference arrives at layers 1-2", "learns of the difference"),
    ("as answers form", [1, 2], "No gate: the wording disturbs layers 1-2", "what the model sees"),
    ("spread over layers", [0, 2, 3], "No gate: flips arise all over layers 0, 2-3", "No short range"),
    ("no gate found", [], "No gate found", "No gate was found"),
    ("too few flips", [], "Too few flips to look for a gate", "too few flips"),
)
"""Each verdict: layers of an example, its headline, and what the limits say of it."""


@pytest.mark.parametrize(("verdict", "layers", "headline", "limit"), VERDICTS)
def test_every_verdict_has_a_headline_and_its_limit(without_charts, tmp_path, verdict, layers, headline, limit):
    write_search(tmp_path, Draw())
    edit(tmp_path / "layers.json", lambda c: c.update(verdict=verdict, layers=layers))
    page = Page(render(collect(tmp_path)))
    assert headline in " ".join(page.texts["verdict"].split())
    assert limit in page.texts["limits"]
    chosen = [int(row[0].split()[0]) for row in page.table("Layer profile") if "chosen" in row[0]]
    assert chosen == layers


def test_no_verdict_is_left_out():
    assert [verdict for verdict, *_ in VERDICTS] == list(get_args(GateVerdict))


def test_sections_stand_in_the_published_order(page):
    assert page.ids("section") == [*SECTIONS, "provenance", "limits", "cite"]
    links = [e.attributes["href"] for e in page.elements if e.tag == "a" and not e.section]
    assert links == ["#report", *(f"#{anchor}" for anchor in page.ids("section"))]


def test_the_profile_has_the_numbers_of_layers_json(run, page):
    profile = content(run / "layers.json")["profile"]
    rows = page.table("Layer profile")
    assert len(rows) == len(profile)
    for row, entry in zip(rows, profile, strict=True):
        assert row[0].split()[0] == str(entry["layer"])
        assert ("chosen" in row[0]) == (entry["layer"] in (1, 2))
        known = {1: "flip_auc", 2: "answer", 4: "answer_growth", 5: "register_patch", 7: "recovery", 9: "write"}
        for place, name in (known | {11: "net_feature_patch", 13: "r2"}).items():
            assert numbers(row[place]) == shown(entry[name]), name
        for place, name in ((3, "random_answer"), (6, "random_register"), (8, "random_patch"), (10, "random_write")):
            assert numbers(row[place]) == [round(entry[name]["value"], 2) + 0.0]
        assert numbers(row[12]) == [entry["reversals"]]
        assert numbers(row[14]) == [entry["fvu"]]
        assert row[15] == entry["transfer"]
        assert numbers(row[16]) == [round(entry["l0"], 2)]


def test_features_stand_beside_their_controls_in_table_and_cards(run, page):
    features = content(run / "layers.json")["features"]
    for row, entry in zip(page.table("All 3 features"), features, strict=True):
        causal = entry["causal"]
        assert row[0] == f"{entry['layer']}:{entry['feature']}"
        assert row[1] == entry["place"] == "echo"
        assert numbers(row[6]) == shown(causal["recovery"])
        assert numbers(row[7]) == shown(causal["mediated"])
        expected = [entry["held_out_auc"], entry["margin_r"], entry["register_auc"], entry["attribution"]]
        expected += [causal["random"], causal["matched"], causal["swapped"]]
        assert [numbers(row[i])[0] for i in (2, 3, 4, 5, 8, 9, 10)] == [round(n, 2) + 0.0 for n in expected]
        assert row[12] == f"{causal['reversals']} of 40"
        assert f"Layer {entry['layer']}, feature {entry['feature']}" in page.texts["features"]
    families = content(run / "layers.json")["families"]
    for row, entry in zip(page.table("Families of features"), families, strict=True):
        assert row[0] == f"{entry['layer']}:{entry['features'][0]} + {len(entry['features']) - 1}"
        assert numbers(row[5]) == shown(entry["net_mediated"])
    assert "3 features are active at least once" in page.texts["features"]
    assert "from other pairs in 2 (adjusted" in page.texts["features"]
    charts = [e.attributes["aria-label"] for e in page.elements if e.tag == "svg" and e.section == "features"]
    doses = [
        " ".join(re.findall(r"[−\d.]+ at", chart))
        for chart in charts
        if chart.startswith("Recovery by dose of the patch of")
    ]
    assert [numbers(dose) for dose in doses] == [[round(n, 2) for n in f["causal"]["dose"]] for f in features]


def test_a_study_of_a_feature_stands_among_the_features(run, page):
    study = content(run / "feature/study.json")
    text = " ".join(page.texts["features"].split())
    assert "Layer 17, feature 103818, in detail" in text
    assert "9 questions of 9 patients, 3 flips" in text
    assert "Random, matched, swapped 0.01, –, 0.02 Flips restored 4 of 40 (random 0.10)" in text
    rows = page.table("Recovery by group of flips, feature 17:103818")
    for row, group in zip(rows, study["groups"], strict=True):
        assert row[:4] == [group["group"].replace("_", " "), group["grouping"], str(group["pairs"]), "9"]
        whole = group["recovery"]["low"] is not None
        assert numbers(row[5]) == (shown(group["recovery"]) if whole else [round(group["recovery"]["value"], 2)])
    assert page.table("Nearest neighbours of feature 17:103818") == [["31", "0.75"], ["8", "0.50"]]
    assert "Feature 17:103818: Some have no interval." in page.texts["limits"]


def test_before_and_after_has_every_measure(run, page):
    found = content(run / "adapter/evaluation.json")
    whole = {c["measure"]: c for c in found["comparisons"] if c["kind"] == "all"}
    rows = page.table("base and adapter")
    assert len(rows) == len(whole)
    for row, measure in zip(rows, MEASURES, strict=True):
        entry, share = whole[measure], MEASURES[measure].unit == "%"
        assert row[0].startswith(
            measure.replace("_", " ")
            .replace("auc", "AUC")
            .replace("text only", "text-only")
            .replace("first token", "first-token")
        )
        assert numbers(row[1]) == [entry["n"]]
        for place, name in ((2, "before"), (3, "after"), (4, "difference")):
            assert numbers(row[place]) == shown(entry[name], *((100, 1) if share else (1, 2))), (measure, name)
        assert numbers(row[5]) == [round(entry["p"], 3)]
    groups = page.table("By group")
    assert [row[0] for row in groups] == ["effusion", "nodule"]
    flips = [c for c in found["comparisons"] if (c["kind"], c["measure"]) == ("finding", "question_flip_rate")]
    assert [numbers(row[3] + " " + row[4]) for row in groups] == [
        [round(100 * c[end]["value"], 1) for end in ("before", "after")] for c in flips
    ]


def test_quadrants_and_moves(run, page):
    found = content(run / "adapter/evaluation.json")
    rows = page.table("Quadrants")
    for row, entry in zip(rows, found["quadrants"], strict=True):
        assert row[:2] == [entry["arm"], entry["reliance"]]
        for place, name in enumerate(QUADRANTS, start=2):
            assert numbers(row[place]) == shown(entry["shares"][name], 100, 1)
    moved = next(q for q in found["quadrants"] if (q["arm"], q["reliance"]) == ("adapter", "any"))
    stayed = sum(moved["moves"][i][i] for i in range(4))
    (row,) = [row for row in rows if row[:2] == ["adapter", "any"]]
    assert numbers(row[6]) == [round(100 - stayed, 1)]
    for row, counts in zip(page.table("Where the questions went, adapter, by any"), moved["moves"], strict=True):
        assert [int(cell) for cell in row[1:]] == [*counts, sum(counts)]


def test_grounding_has_scores_beside_their_controls(run, page):
    found = content(run / "grounding/grounding.json")
    of = {(e["arm"], e["map"], e["score"]): e for e in found["summary"]}
    changes = {(e["map"], e["score"]): e for e in found["differences"]}
    rows = page.table("Every score beside its control")
    assert len(rows) == len(changes)
    for row in rows:
        score, name = row[0].replace(" ", "_"), row[1]
        for place, arm in ((4, "base"), (7, "adapter")):
            entry = of[arm, name, score]
            assert numbers(row[place]) == [round(entry["value"]["value"], 2) + 0.0]
            assert numbers(row[place + 1]) == [round(entry["control"]["value"], 2) + 0.0]
            assert numbers(row[place + 2]) == shown(entry["net"])
        assert numbers(row[10]) == shown(changes[name, score]["difference"])


def test_the_ablation_has_ranks_and_regret(run, page):
    found = content(run / "ablation/ablation.json")
    rows = page.table("3 arms on 140 questions of 60 patients, seeds 0, 1")
    assert rows[0][0] == "base"
    assert rows[1][0] == "chosen 1-2 chosen range"
    for row, arm in zip(rows[1:], found["arms"], strict=True):
        for place, (name, metric) in enumerate([(n, arm["metrics"][n]) for n in SHOWN], start=4):
            assert numbers(row[place]) == shown(metric, *((1, 2) if name == "margin_difference" else (100, 1)))
    assert [row[10] for row in rows[1:]] == ["1–2", "1–3", "1–4"]
    for row, cost in zip(page.table("Layers 1-2 among 3 windows"), found["regret"], strict=True):
        scale = (1, 2) if cost["metric"] == "margin_difference" else (100, 1)
        assert row[1] == cost["best"]
        assert numbers(row[3]) == shown(cost["regret"], *scale)
        assert row[4] == "1–2"
    (told,) = page.table("Does the profile predict")
    assert told[1].endswith("*")
    assert not told[2].endswith("*")
    assert [numbers(cell) for cell in told[1:]] == [[round(w["rho"]["value"], 2)] for w in found["worth"]]
    rules = page.table("What else could have chosen")
    assert [row[:2] for row in rules] == [
        ["chosen range", "chosen 1-2"],
        ["depth", "window 0-1"],
        ["chance", "any"],
    ]


SHOWN = (
    "question_flip_rate",
    "margin_difference",
    "accuracy",
    "first_token_accuracy",
    "text_only_agreement",
    "combined",
)


def test_provenance_limits_and_citation(run, page):
    text = page.texts["provenance"]
    for fingerprint in FINGERPRINTS.values():
        assert fingerprint in text
    versions = content(run / "layers.json")["software"]
    assert all(f"{name} {version}" in text for name, version in versions.items())
    provenance = content(run / "layers.json")["provenance"]
    assert provenance.pop("resumed") == []
    assert all(said in text for said in provenance.values())
    assert "Whether the SAEs of layers 3 explain 95% is unclear from these data." in page.texts["limits"]
    cited = yaml.safe_load((Path(__file__).parents[1] / "CITATION.cff").read_text())
    assert cited["title"] == origins.OWN_TITLE
    assert cited["authors"][0]["name"] == origins.AUTHORS
    named = [(work["title"], work["url"]) for work in cited["references"]]
    assert named == [(source.title, source.url) for source in origins.SOURCES]
    for source in origins.SOURCES:
        assert source.title in page.texts["cite"]
        assert source.where in page.texts["cite"]


def test_no_gate_is_said_first_and_among_the_limits(without_charts, tmp_path):
    write_search(tmp_path, Draw(), gate=False)
    page = Page(render(collect(tmp_path)))
    assert "No gate found" in page.texts["verdict"]
    assert "No gate was found" in page.texts["limits"]


def test_an_arm_that_says_one_thing_only_is_told_beside_its_verdict(without_charts, tmp_path):
    write_adapter(tmp_path / "adapter", Draw())
    edit(
        tmp_path / "adapter/evaluation.json", lambda c: c.update(collapsed={"adapter": "Collapsed: adapter says yes."})
    )
    (tmp_path / "adapter/history.csv").unlink()
    page = Page(render(collect(tmp_path)))
    assert "Collapsed: adapter says yes." in page.texts["verdict"]
    assert "Collapsed: adapter says yes." in page.texts["limits"]


def test_what_a_run_does_not_hold_is_not_there(tmp_path, html):
    write_adapter(tmp_path / "first", Draw())
    (tmp_path / "first/history.csv").unlink()
    edit(tmp_path / "first/evaluation.json", lambda c: c.update(quadrants=[], reliability=[]))
    page = Page(render(collect(tmp_path)))
    assert page.ids("section") == ["verdict", "training", "before-after", "provenance", "limits", "cite"]
    assert "Gate found" not in page.texts["verdict"]
    for gone in ("Layer profile", "Quadrants", "Where it looks", "Did the choice matter?"):
        assert gone in html
        assert gone not in render(collect(tmp_path))


def test_the_words_are_those_of_finetune():
    assert {name for name, measure in MEASURES.items() if measure.unit != "%"} == set(labels.UNITS)
    assert all(labels.UNITS[name] == MEASURES[name].unit for name in labels.UNITS)
    assert set(labels.MEASURE_MEANINGS) <= {*MEASURES, *METRICS}
    assert set(labels.QUADRANT_MEANINGS) == set(QUADRANTS)
    assert set(labels.MAP_SCORE_MEANINGS) == set(GROUNDING_SCORES)
    assert set(SHOWN_METRICS) <= set(METRICS)


# ---- one file, nothing foreign, nothing private ----


def test_the_same_run_gives_the_same_bytes(tmp_path, run):
    write_search(tmp_path, Draw())
    (tmp_path / "delta_margin.csv").unlink()
    (tmp_path / "register.csv").unlink()
    assert render(collect(tmp_path)) == render(collect(tmp_path))


def test_nothing_is_loaded_and_the_policy_allows_nothing_else(html, page):
    (policy,) = [e.attributes["content"] for e in page.elements if e.attributes.get("http-equiv")]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "'none'"
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        (inside,) = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        assert rules[rule] == f"'sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}'"
        assert "http" not in inside
        assert "@import" not in inside
        assert set(re.findall(r"url\((.)", inside)) <= {"#"}
    assert not page.attributes("style")
    assert not page.attributes("src")
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    for e in page.elements:
        for name in ("href", "xlink:href"):
            if name in e.attributes:
                address = e.attributes[name]
                assert address.removeprefix("#") in ids or (e.tag == "a" and address.startswith("https://"))
        assert not any(name.startswith("on") for name in e.attributes)
        if "aria-labelledby" in e.attributes:
            assert e.attributes["aria-labelledby"] in ids
    for reference in re.findall(r"url\(#([^)]+)\)", html):
        assert reference in ids


def test_hostile_texts_are_inert(tmp_path):
    write_run(tmp_path)
    named = dict.fromkeys(("planted", "effusion", "attention", "chosen 1-2"), HOSTILE)
    named |= {"adapter": HOSTILE + "1", "window 0-1": HOSTILE + "2"}

    def changed(value):
        if isinstance(value, str):
            return named.get(value, value)
        if isinstance(value, dict):
            inside = {named.get(key, key): changed(each) for key, each in value.items()}
            for free in ("reason", "sentence", "layers_from", "combined", "data"):
                if isinstance(inside.get(free), str):
                    inside[free] = HOSTILE
            for several in ("conclusion", "warnings"):
                if several in inside:
                    inside[several] = [HOSTILE]
            if "software" in inside:
                inside["software"] = {HOSTILE: HOSTILE}
            return inside
        return [changed(each) for each in value] if isinstance(value, list) else value

    for path in tmp_path.rglob("*.json"):
        path.write_text(json.dumps(changed(content(path))))
    folder = tmp_path / "<script>pwned=4<"
    (tmp_path / "adapter").rename(folder)
    found = tmp_path / "hostile.html"
    write_report(tmp_path, found)
    html = found.read_text()
    page = Page(html)
    inside = [e.tag for e in page.elements if e.tag in ("script", "style", "img", "b")]
    assert inside == ["style", *["script"] * (len(inside) - 1)]
    data = [e for e in page.elements if e.attributes.get("type") == "application/json"]
    assert len(data) == len(inside) - 2, "one script runs, the others are data"
    assert not any(name.startswith("on") for e in page.elements for name in e.attributes)
    assert not [e for e in page.elements if e.attributes.get("href", "").lower().startswith("javascript")]
    assert html.count("<script>") == html.count("</style>") == html.count("</head>") == 1
    assert html.count("&lt;script&gt;pwned=1") > 20
    assert "49" not in re.findall(r"`(\d+)\$", html)
    text = "".join(page.texts.values())
    assert text.count(HOSTILE) > 20
    assert "<script>pwned=4<" in text
    if CHROMIUM and DRIVER:
        with chromium() as browser:
            browser.open(found, width=390)
            assert browser.run("return typeof pwned") == "undefined"
            assert browser.run("return document.documentElement.scrollWidth") <= 390
            assert browser.log("browser") == []


def test_paths_and_control_characters_do_not_get_in():
    assert cleaned("loaded from /home/alice/p123/model-a now") == "loaded from model-a now"
    assert cleaned({"C:\\data\\p1\\model": ["~/x/y", "../up/z"]}) == {"model": ["y", "z"]}
    for kept in ("google/medgemma-4b-it", "https://arxiv.org/abs/1", "and/or", "22 / 74", "layers 4-5", "</script>"):
        assert cleaned(kept) == kept
    assert cleaned("a\x00b\x1b[31m\ud800") == "a\ufffdb\ufffd[31m\ufffd"
    assert cleaned("two\nlines") == "two\nlines"


def test_examples_are_shown_only_on_demand_and_with_a_banner(run, html, tmp_path):
    assert "medical images" not in html
    shown = tmp_path / "shown"
    write_run(shown)
    for part in ("layers.json", "adapter/evaluation.json", "adapter/history.csv", "ablation/ablation.json"):
        (shown / part).unlink()
    out = tmp_path / "report.html"
    write_report(shown, out, include_examples=True)
    page = Page(out.read_text())
    (source,) = page.attributes("src")
    embedded = Image.open(BytesIO(base64.b64decode(source.removeprefix("data:image/png;base64,"))))
    with Image.open(shown / "grounding/examples.png") as drawn:
        assert drawn.info["Software"].startswith("Matplotlib")
        assert np.array_equal(np.asarray(embedded), np.asarray(drawn.convert("RGB")))
    assert not embedded.info
    assert contents_of(out).images == 1
    assert "This page shows medical images" in page.texts[""]
    (policy,) = [e.attributes["content"] for e in page.elements if e.attributes.get("http-equiv")]
    assert "img-src data:;" in policy
    (shown / "grounding/examples.png").unlink()
    with pytest.raises(InputError, match=r"no examples\.png"):
        collect(shown, include_examples=True)


# ---- bad input ----


def test_an_existing_file_is_refused_and_nothing_half_written(run, tmp_path, monkeypatch):
    out = tmp_path / "report.html"
    out.write_text("mine")
    with pytest.raises(InputError, match=r"report\.html: already exists"):
        write_report(run, out)
    assert out.read_text() == "mine"
    out.unlink()
    with pytest.raises(InputError, match="is a folder"):
        write_report(run, tmp_path)
    monkeypatch.setattr("interp.views.report.render.render", lambda found: "\ud800")
    with pytest.raises(UnicodeEncodeError):
        write_report(run, out)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("layers.json", lambda c: c["profile"][1].update(flip_auc="high"), r"layers\.json: field profile\.1\.flip_auc"),
        ("adapter/evaluation.json", lambda c: c.pop("verdicts"), r"evaluation\.json: field verdicts: .*required"),
        ("adapter/evaluation.json", lambda c: c.update(schema_version=99), r"evaluation\.json: schema version 99"),
        ("adapter/evaluation.json", lambda c: c.update(arms={}), r"evaluation\.json: .*arms is empty"),
        ("adapter/evaluation.json", lambda c: c["quadrants"][0]["moves"].pop(), r"field quadrants\.0: .*not a square"),
        ("adapter/gatescope.json", lambda c: c.update(steps="many"), r"gatescope\.json: field steps"),
        ("feature/study.json", lambda c: c["tracking"].pop("flips"), r"study\.json: field tracking\.flips"),
        ("grounding/grounding.json", lambda c: c["summary"][2].pop("net"), r"grounding\.json: field summary\.2\.net"),
        ("ablation/ablation.json", lambda c: c["arms"][1]["metrics"].pop("accuracy"), r"metrics have no accuracy"),
        ("ablation/ablation.json", lambda c: c.update(arms=[]), r"ablation\.json: field arms"),
    ],
)
def test_damaged_json_is_named_with_its_field(tmp_path, name, damage, said):
    write_run(tmp_path)
    edit(tmp_path / name, damage)
    with pytest.raises(InputError, match=said):
        collect(tmp_path)


@pytest.mark.parametrize(
    ("name", "written", "said"),
    [
        ("adapter/evaluation.json", b"{", r"evaluation\.json: not JSON"),
        ("adapter/evaluation.json", b"[1]", r"evaluation\.json: found a list, expected an object"),
        ("adapter/evaluation.json", b"\xff\xfe", r"evaluation\.json: not UTF-8"),
        ("adapter/history.csv", b"step,loss\n1,2\n", r"history\.csv: .*no column epoch"),
        ("adapter/history.csv", b"step,epoch,lr,grad_norm,loss,ce,kl\n1,1,x,1,1,1,1\n", r"history\.csv: .*could not"),
        ("delta_margin.csv", b"", r"delta_margin\.csv: "),
        ("features.parquet", b"PAR1", r"features\.parquet: no table"),
        ("grounding/examples.png", b"<svg>", r"examples\.png: not a complete PNG file"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, written, said):
    write_run(tmp_path)
    (tmp_path / name).write_bytes(written)
    with pytest.raises(InputError, match=said):
        collect(tmp_path, include_examples=True)


def test_a_folder_that_is_not_there_is_said_before_a_report_that_is(tmp_path):
    (tmp_path / "report.html").write_text("kept")
    with pytest.raises(InputError, match="frist: no such folder"):
        write_report(tmp_path / "frist", tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text() == "kept"


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        collect(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"nothing to report, .*none of layers\.json"):
        collect(tmp_path)


def test_the_command_writes_the_file_and_names_it(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    write_adapter(tmp_path / "artifacts/adapter", Draw())
    for part in ("history.csv", "evaluation.json"):
        (tmp_path / "artifacts/adapter" / part).unlink()
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["report"])
    assert result.exit_code == 0
    assert result.output.strip() == "report.html"
    assert "Layers trained" in (tmp_path / "report.html").read_text()

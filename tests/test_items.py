"""Items: what was measured on single wordings, whom they name, and what a comparison of two runs makes of them."""

import copy
import json
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from conftest import read_rows, write_rows
from finetune_world import awaken, make_world
from layers_files import layers_document
from pages import Page
from scipy.stats import ttest_1samp

import finetune
import interp
from finetune.evaluation.arms import Arm, base_arm
from finetune.evaluation.evaluate import evaluate
from finetune.evaluation.saved import load_evaluation, save_evaluation
from finetune.lora.modules import add_lora
from interp.comparison.compare import compare
from interp.model.load import load_vlm
from interp.questions.files import load_questions
from interp.questions.item_keys import item_keys
from interp.questions.item_texts import with_questions
from interp.questions.tables import prompt_table
from interp.runtime.errors import InputError
from interp.schemas.items import EVALUATION_ITEMS, SEARCH_ITEMS, read_items, write_items
from interp.schemas.items_kept import ItemsKept


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    torch.set_num_threads(1)
    return make_world(tmp_path_factory.mktemp("items") / "world", patients=16)


@pytest.fixture(scope="module")
def questions(world):
    return load_questions(world.questions, split="test")


@pytest.fixture(scope="module")
def arms(world):
    """The model, and the base with an adapter and with half of it."""
    vlm = load_vlm(world.model, "cpu", "float32")
    model = add_lora(vlm, [0, 1, 2])
    model.eval()
    awaken(model, 3, scale=1.0)

    @contextmanager
    def half():
        parts = [parameter.data for name, parameter in model.named_parameters() if "lora_B" in name]
        for part in parts:
            part.mul_(0.5)
        yield
        for part in parts:
            part.mul_(2)

    return vlm, [base_arm(model), Arm("whole"), Arm("half", half)]


def evaluated(arms, questions, names):
    vlm, known = arms
    return evaluate(vlm, [known[0], *(arm for arm in known if arm.name in names)], questions, seed=3, new_tokens=0)


@pytest.fixture(scope="module")
def evaluation(arms, questions):
    return evaluated(arms, questions, ["whole", "half"])


@pytest.fixture(scope="module")
def saved(arms, questions, tmp_path_factory):
    """Files of one evaluation per arm, with items."""
    folder = tmp_path_factory.mktemp("evaluations")
    for name in ("whole", "half"):
        save_evaluation(evaluated(arms, questions, [name]), folder / f"{name}.json", ItemsKept(keep=True))
    return folder


def test_items_add_up_to_the_evaluation(evaluation):
    for arm in ("whole", "half"):
        rows = evaluation.items().query("arm == @arm and closed")
        pairs = rows[rows["wording"] > 0]
        for when, side in (("before", "before"), ("after", "after")):
            flips = pairs[f"flipped_{when}"].astype(bool)
            original = rows[rows["wording"] == 0].set_index("question_key")[f"margin_{when}"]
            shift = pairs[f"margin_{when}"].to_numpy() - original.loc[pairs["question_key"]].to_numpy()
            plain = {
                "question_flip_rate": flips.groupby(pairs["question_key"]).any().mean(),
                "pairwise_flip_rate": flips.mean(),
                "margin_difference": np.abs(shift).mean(),
                "accuracy": rows[f"correct_{when}"].astype(float).mean(),
            }
            for measure, value in plain.items():
                assert getattr(evaluation.find(arm, measure), side).value == pytest.approx(value, abs=1e-6), measure
            for reliance in ("grey", "any"):
                (stand,) = (q for q in evaluation.quadrants if (q.arm, q.reliance) == (arm, reliance))
                before, after = (
                    pairs.groupby("question_key")[f"quadrant_{reliance}_{w}"].first() for w in ("before", "after")
                )
                counted = pd.crosstab(before, after).reindex(
                    index=evaluation.quadrant_order, columns=evaluation.quadrant_order, fill_value=0
                )
                assert counted.to_numpy().tolist() == stand.moves
    open_rows = evaluation.items().query("not closed")
    assert len(open_rows)
    assert open_rows[["flipped_before", "quadrant_grey_after", "answer", "correct_after"]].isna().all().all()
    right = evaluation.items().query("arm == 'whole'")["first_token_after"].dropna().astype(float)
    assert right.mean() == pytest.approx(evaluation.find("whole", "first_token_accuracy").after.value, abs=1e-6)


def test_a_saved_evaluation_reads_back_with_its_items_and_without_text(saved, evaluation, questions):
    loaded = finetune.load_evaluation(saved / "whole.json")
    items, expected = loaded.items(), evaluation.items().query("arm == 'whole'")
    assert list(items) == list(EVALUATION_ITEMS)
    np.testing.assert_allclose(items["margin_after"], expected["margin_after"], atol=1e-4)
    named = interp.with_questions(items, questions)
    prompts = prompt_table(questions)
    assert named["text"].tolist() == prompts["text"].tolist()
    assert named["id"].tolist() == prompts["id"].tolist()
    with pytest.raises(InputError, match="kept without text"):
        loaded.items(text=True)
    with pytest.raises(InputError, match="are not those of these items"):
        with_questions(items, questions[1:])
    table = pq.read_table(saved / "whole_items.parquet")
    content = repr(table.to_pylist()) + repr(table.schema.metadata)
    secrets = {str(value) for name in ("id", "patient", "image", "text") for value in prompts[name]}
    assert not [secret for secret in secrets if secret in content]


def test_an_evaluation_without_items_says_how_to_get_them(arms, questions, tmp_path):
    save_evaluation(evaluated(arms, questions, ["whole"]), tmp_path / "evaluation.json")
    with pytest.raises(InputError, match="--keep-items"):
        load_evaluation(tmp_path).items()


def test_comparing_two_files_equals_comparing_the_arms_in_one_evaluation(saved, evaluation):
    found = compare(saved / "whole.json", saved / "half.json", seed=3)
    assert found.paired
    assert (found.a, found.b) == ("whole.json", "half.json")
    together = {
        c.measure: c for c in evaluation.comparisons if (c.reference, c.arm, c.kind) == ("whole", "half", "all")
    }
    of_arms = {change.measure: change for change in found.changes if change.of == "whole in A, half in B"}
    for name in ("question_flip_rate", "pairwise_flip_rate", "margin_difference", "accuracy"):
        mine, theirs = of_arms[name], together[name]
        assert (mine.n, mine.patients) == (theirs.n, theirs.patients)
        for part in ("value", "low", "high"):
            # The hashed names of patients are drawn in another order.
            loose = 1e-6 if part == "value" else 0.15 * (theirs.difference.high - theirs.difference.low) + 1e-6
            assert getattr(mine.difference, part) == pytest.approx(getattr(theirs.difference, part), abs=loose)
        assert mine.a.value == pytest.approx(theirs.before.value, abs=1e-6)
        assert mine.p == pytest.approx(theirs.p, abs=0.05)
    same_base = [change for change in found.changes if change.of == "base"]
    assert {change.difference.value for change in same_base} == {0.0}
    moved = next(each for each in found.moves if each.of == "whole in A, half in B")
    sides = [
        load_evaluation(saved / f"{name}.json").items().query("closed and wording > 0") for name in ("whole", "half")
    ]
    first, second = (side["flipped_after"].to_numpy(bool) for side in sides)
    assert moved.only_a + moved.only_b > 0
    assert (moved.both, moved.only_a, moved.only_b) == (
        (first & second).sum(),
        (first & ~second).sum(),
        (~first & second).sum(),
    )


def test_without_items_a_comparison_has_no_intervals_of_differences(arms, questions, saved, tmp_path):
    save_evaluation(evaluated(arms, questions, ["half"]), tmp_path / "half.json")
    found = compare(saved / "whole.json", tmp_path / "half.json")
    assert not found.paired
    assert "--keep-items" in found.notes[0]
    paired = compare(saved / "whole.json", saved / "half.json")
    for change in found.changes:
        assert change.difference.low is None
        same = [c for c in paired.changes if (c.of, c.measure) == (change.of, change.measure)]
        assert all(c.difference.value == pytest.approx(change.difference.value, abs=2e-6) for c in same)


def test_keys_name_nobody_and_are_the_same_for_the_same_data(own_data):
    questions = load_questions(own_data / "questions.jsonl")
    keys = item_keys(prompt_table(questions))
    moved = [q.model_copy(update={"image": "/elsewhere/" + q.image.rsplit("/", 1)[1]}) for q in questions]
    assert item_keys(prompt_table(moved)) == keys
    assert len(set(keys.question)) == len(questions)
    assert len(set(keys.patient)) == 6
    # Who knows one question but not the others cannot find its key.
    alone = item_keys(prompt_table(questions[:1]))
    assert not set(alone.question) & set(keys.question)


def search_run(folder, items, fingerprint="00", **changed):
    folder.mkdir()
    document = layers_document("m", 2, 8) | changed
    document["data"]["fingerprint"] = fingerprint
    (folder / "layers.json").write_text(json.dumps(document))
    if items is not None:
        write_items(folder / "items.parquet", items, "search", fingerprint)
    return folder


@pytest.fixture
def hand_items():
    """Two wordings of each of 30 questions of 15 patients; the second run repairs some flips."""
    rng = np.random.default_rng(5)
    n = 60
    table = pd.DataFrame(dict.fromkeys(SEARCH_ITEMS, [None] * n))
    question = np.repeat(np.arange(30), 2)
    table = table.assign(
        question_key=[f"q{k}" for k in question],
        patient_key=[f"p{k % 15}" for k in question],
        wording=np.tile([1, 2], 30),
        answer="yes",
        margin_original=np.repeat(rng.normal(1, 0.3, 30), 2),
        margin_wording=rng.normal(0, 1, n),
        banked=False,
        held_out=True,
        delta=0.0,
        recovery=np.nan,
    )
    table["flipped"] = (table["margin_original"] > 0) != (table["margin_wording"] > 0)
    later = copy.deepcopy(table)
    later["margin_wording"] += 0.6
    later["flipped"] = (later["margin_original"] > 0) != (later["margin_wording"] > 0)
    return table, later


def test_two_searches_by_hand(hand_items, tmp_path):
    a, b = hand_items
    found = compare(search_run(tmp_path / "a", a), search_run(tmp_path / "b", b, verdict="no gate found", layers=[]))
    changes = {change.measure: change for change in found.changes}
    moved = found.moves[0]
    assert moved.only_a == (a["flipped"] & ~b["flipped"]).sum() > 0
    assert moved.only_b == 0
    gap = b.groupby("question_key")["flipped"].any().astype(float) - a.groupby("question_key")["flipped"].any()
    assert changes["question_flip_rate"].difference.value == pytest.approx(gap.mean(), abs=1e-6)
    # Equal numbers of questions per patient, so that a t test of the patients' means is nearly the sign-flip test.
    means = gap.groupby(a.groupby("question_key")["patient_key"].first()).mean()
    assert changes["question_flip_rate"].p == pytest.approx(ttest_1samp(means, 0).pvalue, abs=0.05)
    original = a.drop_duplicates("question_key")["margin_original"] > 0
    right = [pd.concat([original, side["margin_wording"] > 0]).mean() for side in (a, b)]
    assert changes["accuracy"].difference.value == pytest.approx(right[1] - right[0], abs=1e-6)
    table = found.table().set_index("measure")
    assert table.loc["accuracy", ["unit", "difference"]].tolist() == ["%", 100 * changes["accuracy"].difference.value]
    assert "Which pairs of wordings flip" in found._repr_html_()
    verdict = next(fact for fact in found.facts if fact.what == "verdict")
    assert (verdict.a, verdict.b, verdict.same) == ("gate found", "no gate found", False)


def test_whether_the_register_makes_the_flips_is_compared(hand_items, tmp_path):
    a, b = hand_items
    some = {"value": 0.9, "low": 0.8, "high": 1.0}
    runs = [
        search_run(tmp_path / name, table, formality=formality)
        for name, table, formality in (
            ("a", a, {"layer": 1, "recovery": some, "random": some, "holds": True}),
            ("b", b, {"layer": 1, "recovery": some, "random": some, "holds": False}),
            ("c", b, None),
        )
    ]
    for other, said in ((1, "not shown"), (2, "unknown")):
        facts = {fact.what: fact for fact in compare(runs[0], runs[other]).facts}
        fact = facts["register makes the flips"]
        assert (fact.a, fact.b, fact.same) == ("yes", said, False)


def test_searches_of_different_questions_are_not_paired(hand_items, tmp_path):
    a, b = hand_items
    found = compare(search_run(tmp_path / "a", a), search_run(tmp_path / "b", b, fingerprint="11"))
    assert (found.same_questions, found.paired, found.moves) == (False, False, [])
    assert "different questions" in found.notes[0]


def test_one_feature_number_in_two_dictionaries_is_pointed_out(tmp_path):
    source = {"layer": 1, "folder": "layer_1_width_16k_l0_small", "repository": None, "revision": None, "release": None}
    runs = [
        search_run(tmp_path / name, None, sae_sources=[source | {"digest": digest}])
        for name, digest in (("a", "aa"), ("b", "bb"))
    ]
    assert "different dictionaries" in " ".join(compare(*runs).notes)


def test_what_cannot_be_compared_is_refused(saved, tmp_path):
    run = search_run(tmp_path / "run", None)
    with pytest.raises(InputError, match="one is a search and the other an evaluation"):
        compare(run, saved / "half.json")
    with pytest.raises(InputError, match="no such file or folder"):
        compare(run, tmp_path / "nothing")
    (tmp_path / "run" / "items.parquet").write_bytes(b"PAR1 broken")
    with pytest.raises(InputError, match=r"items.parquet: no items of GateScope"):
        read_items(tmp_path / "run" / "items.parquet", "search")
    with pytest.raises(InputError, match="expected 'search'"):
        read_items(saved / "half_items.parquet", "search")


def test_the_command_writes_table_json_and_page(called, saved, tmp_path):
    code, said, _ = called("interp", "compare", saved / "whole.json", saved / "half.json", "--out", tmp_path / "out")
    assert code == 0
    assert "Which pairs of wordings flip" in said
    content = json.loads((tmp_path / "out" / "comparison.json").read_text())
    page = (tmp_path / "out" / "comparison.html").read_text()
    shown = f"{100 * content['changes'][0]['a']['value']:.1f}"
    # The parser refuses tags that are not closed and tables of one name.
    tables = Page(page).tables
    assert any(shown in cell for cell in tables["What was measured"][1])
    assert "<script>" in page
    assert "http" not in page.split("</head>")[1].split("<script>")[0]


def test_include_text_needs_keep_items_and_keep_items_needs_out(called, own_data):
    code, _, error = called("interp", "find-features", "--include-text")
    assert (code, "Give both" in error) == (2, True)
    code, _, error = called("finetune", "evaluate", "x", "--keep-items")
    assert (code, "Give --out too" in error) == (2, True)


def test_text_is_written_only_when_asked_for(evaluation, tmp_path):
    save_evaluation(evaluation, tmp_path / "e.json", ItemsKept(keep=True, include_text=True))
    items, record = read_items(tmp_path / "e_items.parquet", "evaluation")
    assert record.with_text
    assert items["text"].tolist() == evaluation.items(text=True)["text"].tolist()


def test_a_loaded_search_has_the_tables_and_figures_of_the_run(hand_items, tmp_path):
    # Rows of a file on which nothing can be paired: a search without tested features.
    run = search_run(tmp_path / "run", hand_items[0])
    hand_items[0].to_parquet(run / "features.parquet")
    loaded = interp.load_run(run)
    assert (loaded.verdict, loaded.layers) == ("gate found", [1])
    assert [drawing.name for drawing in loaded.drawings()] == ["layer_profile"]
    pd.testing.assert_frame_equal(loaded.flip_table(), hand_items[0], check_dtype=False)
    with pytest.raises(InputError, match="No feature was tested"):
        loaded.top_delta()


def test_questions_without_paraphrases_are_found_again(own_data):
    rows = read_rows(own_data / "questions.jsonl")
    rows[0].pop("paraphrases")
    write_rows(own_data / "questions.jsonl", rows)
    questions = load_questions(own_data / "questions.jsonl")
    prompts = prompt_table([q for q in questions if q.paraphrases])
    items = pd.DataFrame({"question_key": item_keys(prompts).question, "wording": prompts["variant"]})
    assert with_questions(items, questions)["text"].tolist() == prompts["text"].tolist()


def test_scrub_finds_the_text_of_items_only_where_it_was_asked_for(evaluation, world, tmp_path):
    from interp.sharing.scrub import scrub

    for name, kept in (("plain", ItemsKept(keep=True)), ("texts", ItemsKept(keep=True, include_text=True))):
        save_evaluation(evaluation, tmp_path / name / "evaluation.json", kept)
    assert not scrub(tmp_path / "plain", [world.questions]).findings
    found = {finding.file for finding in scrub(tmp_path / "texts", []).findings}
    assert found == {"evaluation_items.parquet"}

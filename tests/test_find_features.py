"""The search on the shipped world, whose gate is known, against slow and simple computations of its numbers."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import mannwhitneyu
from test_engine import plain_inputs

from interp.causal.layer_patching import PatchTarget, patch_layers, rerun_paraphrases
from interp.images.decode import open_image
from interp.measurement.margins import measure
from interp.measurement.residual_store import Residuals
from interp.model.load import load_vlm
from interp.paths import WORLD
from interp.profile.ranges import overlap
from interp.questions.files import load_questions
from interp.questions.schema import Paraphrase
from interp.questions.tables import pair_table, prompt_table
from interp.runtime.errors import InputError
from interp.saes.locate import locate_saes
from interp.saes.sae import load_sae
from interp.schemas.items_kept import ItemsKept
from interp.schemas.layers import read_layers
from interp.screening.flips import find_flips, selection_rows
from interp.search import find, stages
from interp.search.artifact import warnings_of
from interp.search.find import find_features
from interp.search.loaded_run import load_run
from interp.search.run_folder import save_result
from interp.search.settings import FindSettings
from interp.views.figures.redraw import drawings
from interp.views.figures.style import SCREEN, save_figure

QUESTIONS = WORLD / "questions.jsonl"


@pytest.fixture(scope="module")
def planted():
    return load_vlm(WORLD / "planted", "cpu", "float32")


@pytest.fixture(scope="module")
def result(planted):
    return find_features(planted, locate_saes(WORLD / "saes"), load_questions(QUESTIONS, split="train"), split="train")


@pytest.fixture(scope="module")
def saved(result, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    save_result(result, out)
    return out


def test_the_planted_window_is_found(result, world):
    artifact = result.artifact
    assert artifact.verdict == "gate found"
    assert artifact.peak in world["gate_layers"]
    assert overlap(artifact.layers, world["gate_layers"]) >= 0.5


def test_the_direct_effect_patch_is_large_in_the_window_and_small_elsewhere(result, world):
    net = {p.layer: p.net_write for p in result.artifact.profile}
    inside = min(net[layer].low for layer in world["gate_layers"])
    outside = max(abs(i.value) for layer, i in net.items() if layer not in world["gate_layers"])
    assert inside > outside


def test_the_range_is_tested_on_the_held_out_half(result, world):
    taken = next(entry for entry in result.artifact.ranges if entry.rule == "answer")
    assert [*range(taken.first, taken.last + 1)] == result.artifact.layers
    # Its layers make the flipped answers, but not those of other images; what they add is enough, and needed.
    assert taken.share.low > 0.8
    assert taken.formed.high < 0.5 * taken.share.low
    assert taken.arrived.low > 0.5
    for effect, random in ((taken.restored, taken.random_restored), (taken.broken, taken.random_broken)):
        assert effect.low > 0.5
        assert abs(random.value) < 0.2
    growth = {entry.layer: entry.answer_growth for entry in result.artifact.profile}
    inside = min(growth[layer].low for layer in world["gate_layers"])
    assert inside > max(abs(each.value) for layer, each in growth.items() if layer not in world["gate_layers"])


def test_the_planted_gate_reads_the_register_below_its_layers(result, world):
    formality = result.artifact.formality
    assert formality.holds
    assert formality.layer < world["gate_layers"][0]
    assert formality.recovery.low > 0.5 > formality.random.high


def test_a_family_is_the_cause_where_no_single_feature_is(result, planted, world):
    """The trained gate reads the register, which several features of a layer hold together."""
    artifact, window = result.artifact, world["gate_layers"]
    assert "cause" not in {entry.place for entry in artifact.features}
    first = artifact.families[0]
    assert (first.place, first.net_mediated.low > 0.8, first.p_mediated < 0.01) == ("cause", True, True)
    gate = artifact.gate
    assert (gate.read_layer, [gate.feature, *gate.family]) == (first.layer, first.features)
    assert gate.read_layer < window[0]
    # The layers that were trained are those that read its change, and those that write.
    assert gate.mediating_layers == gate.write_layers == window
    assert [entry.layer for entry in artifact.families] != sorted(entry.layer for entry in artifact.families)
    assert {entry.layer for entry in artifact.families} == set(range(window[-1]))

    # Its recovery, by undoing the features' changes one after the other in plain activations.
    banked = result.flips.take(result.flips.banked & ~selection_rows(result.flips, seed=0))
    sae = load_sae(locate_saes(WORLD / "saes")[first.layer], first.layer, planted.d_model)
    before, after = (
        sae.encode(measure(planted, result.prompts.iloc[rows].reset_index(drop=True), [first.layer]).residuals[:, 0])
        for rows in (banked.pairs["original"], banked.pairs["paraphrase"])
    )
    delta = after - before
    vectors = -sum(delta[:, [i]] * sae.w_dec[i] for i in first.features)
    rerun = rerun_paraphrases(planted, result.prompts, banked)
    effect = PatchTarget(banked, rerun).effect([first.layer], vectors[:, None], "by hand")[:, 0]
    shift = banked.margin_before - banked.margin_after
    assert first.recovery.value == pytest.approx((effect * np.sign(shift)).sum() / np.abs(shift).sum(), abs=1e-4)


def test_the_base_model_has_no_gate(world):
    base = load_vlm(WORLD / "base", "cpu", "float32")
    artifact = find_features(base, locate_saes(WORLD / "saes"), load_questions(QUESTIONS, split="train")).artifact
    assert (artifact.verdict, artifact.layers, artifact.peak) == ("too few flips", [], None)
    assert artifact.data.question_flip_rate.value <= 0.03


def test_flip_rates_are_plain_shares(result):
    frame = result.flips.pairs.assign(flipped=np.sign(result.flips.margin_before) != np.sign(result.flips.margin_after))
    data = result.artifact.data
    assert data.pairs == len(frame) == 4 * data.questions
    assert data.flips == frame["flipped"].sum()
    assert data.pairwise_flip_rate.value == pytest.approx(frame["flipped"].mean(), abs=1e-6)
    by_question = frame.groupby("question")["flipped"].any().mean()
    assert data.question_flip_rate.value == pytest.approx(by_question, abs=1e-6)
    assert data.question_flip_rate.low < by_question < data.question_flip_rate.high


def test_the_top_feature_by_hand(result, planted):
    """Its AUC, mean deltas and correlation, from SAE activations and scipy alone."""
    top = result.artifact.features[0]
    residuals = measure(planted, result.prompts, [top.layer]).residuals[:, 0]
    sae = load_sae(locate_saes(WORLD / "saes")[top.layer], top.layer, planted.d_model)
    z = residuals @ sae.w_enc[:, top.feature] + sae.b_enc[top.feature]
    f = torch.where(z > sae.threshold[top.feature], z, 0.0).numpy()
    flips = result.flips
    delta = f[flips.pairs["paraphrase"]] - f[flips.pairs["original"]]
    chosen = selection_rows(flips, seed=0)
    for rows, auc in ((chosen, top.flip_auc), (~chosen, top.held_out_auc)):
        moved, stayed = (np.abs(delta[rows & (flips.flipped == value)]) for value in (True, False))
        assert auc == pytest.approx(mannwhitneyu(moved, stayed).statistic / len(moved) / len(stayed), abs=1e-4)
    moved, stayed = (np.abs(delta[chosen & (flips.flipped == value)]) for value in (True, False))
    assert top.delta_on_flips == pytest.approx(moved.mean(), rel=1e-4)
    assert top.delta_otherwise == pytest.approx(stayed.mean(), rel=1e-4)
    shift = flips.margin_after - flips.margin_before
    assert top.margin_r == pytest.approx(np.corrcoef(delta[chosen], shift[chosen])[0, 1], abs=1e-4)
    np.testing.assert_allclose(result.top_activations, f, atol=1e-4)


def test_features_are_chosen_and_judged_on_different_patients(result):
    chosen = selection_rows(result.flips, seed=0)
    patients = result.flips.pairs["patient"]
    assert not set(patients[chosen]) & set(patients[~chosen])
    banked = result.flips.banked
    assert abs(int(banked[chosen].sum()) - int(banked[~chosen].sum())) < 0.5 * banked.sum()


def plain_margin(vlm, row, layer=None, residual=None):
    """Margin and resid_post of every layer at the final token, by transformers alone.

    If `layer` is given, its output there is replaced by `residual`.
    """
    inputs = plain_inputs(vlm, open_image(row["image"]), row["text"])
    seen = {}

    def hook(i):
        def watch(module, args, output):
            if i == layer:
                output = output.clone()
                output[0, -1] = residual
            seen[i] = output[0, -1].clone()
            return output

        return watch

    handles = [module.register_forward_hook(hook(i)) for i, module in enumerate(vlm.layers)]
    with torch.no_grad():
        logits = vlm.model(**inputs).logits[0, -1]
    for handle in handles:
        handle.remove()
    yes, no = (logits[t].double().logsumexp(0) for t in vlm.answers)
    return float(yes - no), seen


def test_residual_and_direct_effect_patches_by_hooks(result, planted, world):
    flips = result.flips.take(result.flips.banked)
    flips = flips.take(np.arange(len(flips.pairs)) < 2)
    layers = [0, world["gate_layers"][-1], 9]
    watched = sorted({0, *layers, *(layer - 1 for layer in layers if layer)})
    residuals = Residuals(watched, measure(planted, result.prompts, watched).residuals.transpose(0, 1))
    sides = [torch.from_numpy(flips.pairs[k].to_numpy(copy=True)) for k in ("original", "paraphrase")]
    state, before = (residuals.shift([layer + off for layer in layers], *sides) for off in (0, -1))
    target = PatchTarget(flips, rerun_paraphrases(planted, result.prompts, flips))
    patch = patch_layers(target, state, before, layers, 0)
    for i, pair in flips.pairs.iterrows():
        q, p = (result.prompts.iloc[pair[k]] for k in ("original", "paraphrase"))
        margin_q, seen_q = plain_margin(planted, q)
        margin_p, seen_p = plain_margin(planted, p)
        assert patch.shift[i] == pytest.approx(margin_q - margin_p, abs=1e-3)
        for k, layer in enumerate(layers):
            whole, _ = plain_margin(planted, p, layer, seen_q[layer])
            assert patch.residual[i, k] == pytest.approx(whole - margin_p, abs=1e-3)
            added = seen_q[layer] - seen_p[layer]
            added = added - (seen_q[layer - 1] - seen_p[layer - 1]) if layer else added
            direct, _ = plain_margin(planted, p, 9, seen_p[9] + added)
            assert patch.write[i, k] == pytest.approx(direct - margin_p, abs=1e-3)
    # The last layer's residual decides the answer, so its residual patch restores the whole shift.
    np.testing.assert_allclose(patch.along_shift(patch.residual)[:, -1], np.abs(patch.shift), atol=1e-3)
    assert patch.reversed[:, -1].all()


def test_the_same_seed_gives_the_same_artifact(planted, monkeypatch):
    questions, saes = load_questions(QUESTIONS, split="train")[:150], locate_saes(WORLD / "saes")
    once = find_features(planted, saes, questions, [4, 5]).artifact
    with monkeypatch.context() as as_on_a_gpu:
        # Where two layers are screened at the same time, beside the patches of whole layers.
        inputs = stages.sae_inputs
        as_on_a_gpu.setattr(find, "sae_inputs", lambda *given: inputs(*given)._replace(beside=2))
        assert once == find_features(planted, saes, questions, [4, 5]).artifact
    assert once != find_features(planted, saes, questions, [4, 5], FindSettings(seed=1)).artifact


def test_the_run_on_disk(saved, result):
    assert read_layers(saved / "layers.json") == result.artifact
    parquet, csv = pd.read_parquet(saved / "features.parquet"), pd.read_csv(saved / "features.csv")
    assert list(parquet.columns) == list(csv.columns) == list(result.features.columns)
    assert len(parquet) == len(csv) == len(result.features)
    found = drawings(saved)
    assert [drawing.name for drawing in found] == ["layer_profile", "delta_margin", "register"]
    for drawing in found:
        again = save_figure(drawing.draw(SCREEN), saved.parent / drawing.name, drawing.frame)
        assert [p.read_bytes() for p in again] == [(saved / p.name).read_bytes() for p in again]
    pairs, register = (pd.read_csv(saved / f"{name}.csv") for name in ("delta_margin", "register"))
    assert (len(pairs), pairs["flipped"].sum()) == (result.artifact.data.pairs, result.artifact.data.flips)
    top = result.artifact.features[0]
    assert (pairs["layer"][0], pairs["feature"][0]) == (top.layer, top.feature)
    assert len(register) == result.prompts["register"].isin(["formal", "casual"]).sum()
    assert not list(saved.glob(".partial*"))
    with pytest.raises(InputError, match="already holds a run"):
        save_result(result, saved)


def test_items_add_up_to_the_rates_and_to_the_first_features_recovery(result, planted, tmp_path):
    items = result.flip_table()
    data, top = result.artifact.data, result.artifact.features[0]
    assert (len(items), items["flipped"].sum(), items["banked"].sum()) == (data.pairs, data.flips, data.flip_bank)
    by_question = items.groupby("id")["flipped"].any().mean()
    assert by_question == pytest.approx(data.question_flip_rate.value, abs=1e-6)
    patched = items[items["recovery"].notna()]
    assert (patched["banked"] & patched["held_out"]).all()
    assert len(patched) == top.causal.n
    size = (patched["margin_original"] - patched["margin_wording"]).abs()
    assert (patched["recovery"] * size).sum() / size.sum() == pytest.approx(top.causal.recovery.value, abs=1e-4)
    # One pair by a plain hook: the feature's change is taken out of the paraphrase's final token.
    row = patched.iloc[0]
    texts = result.flip_table(text=True).loc[row.name]
    prompts = result.prompts
    q, p = (
        prompts[(prompts["id"] == row["id"]) & (prompts["text"] == texts[name])].iloc[0]
        for name in ("original", "text")
    )
    sae = load_sae(locate_saes(WORLD / "saes")[top.layer], top.layer, planted.d_model)
    margin_q, _ = plain_margin(planted, q)
    margin_p, seen = plain_margin(planted, p)
    moved, _ = plain_margin(planted, p, top.layer, seen[top.layer] - row["delta"] * sae.w_dec[top.feature])
    assert (row["margin_original"], row["margin_wording"]) == pytest.approx((margin_q, margin_p), abs=1e-3)
    assert row["recovery"] == pytest.approx((moved - margin_p) / (margin_q - margin_p), abs=1e-3)
    save_result(result, tmp_path / "run", ItemsKept(keep=True))
    loaded = load_run(tmp_path / "run")
    pd.testing.assert_frame_equal(loaded.flip_table(), items.drop(columns="id"), check_dtype=False)
    assert [drawing.name for drawing in loaded.drawings()] == [drawing.name for drawing in result.drawings()]
    assert loaded.artifact == result.artifact


def test_nothing_of_the_questions_is_written(saved):
    questions = load_questions(QUESTIONS, split="train")
    written = "".join(p.read_text() for p in saved.iterdir() if p.suffix in (".json", ".csv", ".svg"))
    secrets = {q.question for q in questions} | {p.text for q in questions for p in q.paraphrases}
    secrets |= {q.patient for q in questions} | {q.id for q in questions} | {str(WORLD)}
    assert not [s for s in secrets if s in written]
    assert json.loads((saved / "layers.json").read_text())["data"]["fingerprint"] in written


def test_questions_that_cannot_flip_are_refused(planted, own_data):
    questions = [q.model_copy(update={"paraphrases": []}) for q in load_questions(own_data / "questions.jsonl")]
    with pytest.raises(InputError, match="nothing can flip"):
        find_features(planted, locate_saes(WORLD / "saes"), questions)


def test_warnings_name_the_saes_that_fail_and_the_wordings_that_invert(result, world):
    profile = result.artifact.profile
    fails = [p.layer for p in profile if p.transfer == "fail"]
    assert min(fails) >= world["gate_layers"][0]
    assert f"layers {', '.join(map(str, fails))} explain less than 95%" in result.artifact.warnings[0]
    question = load_questions(QUESTIONS, split="train")[0]
    inverted = question.model_copy(update={"paraphrases": [Paraphrase(text="Is it absent?")]})
    assert warnings_of([question], []) == []
    assert warnings_of([inverted], [])[0].startswith("1 paraphrases seem to ask for the opposite")


def test_too_few_flips_give_no_verdict_but_no_crash(planted):
    few = load_questions(QUESTIONS, split="train")[:20]
    artifact = find_features(planted, locate_saes(WORLD / "saes"), few, settings=FindSettings(seed=1)).artifact
    assert artifact.verdict == "too few flips"
    assert "at least 10 flips of 5 patients are needed" in artifact.reason


def test_a_flip_bank_needs_both_margins(planted):
    prompts = prompt_table(load_questions(QUESTIONS, split="train"))
    pairs = pair_table(prompts)
    margin = torch.full((len(prompts),), 2.0)
    closed = pairs[prompts["closed"].to_numpy()[pairs["original"]]]
    margin[int(closed["paraphrase"].iloc[0])] = -0.2
    margin[int(closed["paraphrase"].iloc[1])] = -0.3
    flips = find_flips(prompts, pairs, margin, 0.25)
    assert (int(flips.flipped.sum()), int(flips.banked.sum())) == (2, 1)

"""Patches of single features against plain hooks, their controls, and attribution against numerical differences."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import kstest, spearmanr
from test_find_features import plain_margin

from interp.causal.feature_patching import apply_feature_patches, feature_patches, joint_effects, matched_features
from interp.causal.layer_patching import (
    PatchTarget,
    as_long_as,
    control_directions,
    layer_noise,
    patch_effect,
    patch_layers,
    random_directions,
    rerun_paraphrases,
)
from interp.feature.pair_effects import one_sample_d, pair_effects
from interp.measurement import suffix_rerun
from interp.measurement.margins import measure
from interp.measurement.residual_store import Residuals
from interp.measurement.suffix_rerun import SuffixRerun, edits_of
from interp.model.load import load_vlm
from interp.paths import WORLD
from interp.questions.files import load_questions
from interp.questions.tables import pair_table, prompt_table
from interp.saes.locate import locate_saes
from interp.saes.sae import load_sae
from interp.saes.sparse_codes import differences, encode_sparse
from interp.schemas.tested_features import DOSES
from interp.screening.attribution import attribute, margin_gradients, path_gradients
from interp.screening.candidates import choose_candidates
from interp.screening.feature_stats import ScreenedPairs, adjust, feature_delta, joint_feature_patch, screen_layer
from interp.screening.flips import Flips, find_flips, sample_pairs, sides
from interp.screening.sae_inputs import SaeInputs
from interp.statistics import ratio_sign_flips

LAYERS = [4, 7]


@pytest.fixture(scope="module")
def planted():
    return load_vlm(WORLD / "planted", "cpu", "float32")


@pytest.fixture(scope="module")
def prompts():
    return prompt_table([q for q in load_questions(WORLD / "questions.jsonl", split="train") if q.closed][:300])


@pytest.fixture(scope="module")
def measured(planted, prompts):
    return measure(planted, prompts, LAYERS)


@pytest.fixture(scope="module")
def flips(prompts, measured):
    return find_flips(prompts, pair_table(prompts), measured.margin, 0.25)


@pytest.fixture(scope="module")
def banked(flips):
    return flips.take(flips.banked)


@pytest.fixture(scope="module")
def saes():
    found = locate_saes(WORLD / "saes")
    return {layer: load_sae(found[layer], layer, 128) for layer in LAYERS}


@pytest.fixture(scope="module")
def screen(saes, measured, prompts, flips):
    encoded = [encode_sparse(saes[layer], measured.residuals[:, k]) for k, layer in enumerate(LAYERS)]
    pairs = ScreenedPairs.of(prompts, flips)
    tables = [
        screen_layer(layer, each.by_feature, differences(each, *sides(flips.pairs)), pairs)
        for layer, each in zip(LAYERS, encoded, strict=True)
    ]
    return adjust(pd.concat(tables, ignore_index=True))


@pytest.fixture(scope="module")
def rerun(planted, prompts, banked):
    return rerun_paraphrases(planted, prompts, banked, max_bytes=2**30)


def residuals_of(measured, layers):
    return Residuals(layers, measured.residuals.transpose(0, 1))


@pytest.fixture(scope="module")
def tests(planted, prompts, flips, banked, measured, saes, screen, rerun):
    unflipped = sample_pairs(flips.take(~flips.flipped), len(banked.pairs), seed=0)
    candidates = [(4, 110), (7, 66), (4, 283)]
    inputs = SaeInputs(saes.get, residuals_of(measured, LAYERS))
    bank, other = PatchTarget(banked, rerun), target_of(planted, prompts, unflipped)
    patches = feature_patches(candidates, banked, unflipped, inputs, screen)
    return apply_feature_patches(patches, bank, other, seed=0)


def target_of(planted, prompts, flips):
    return PatchTarget(flips, rerun_paraphrases(planted, prompts, flips))


def first(flips: Flips, count: int) -> Flips:
    return flips.take(np.arange(len(flips.pairs)) < count)


def test_the_feature_patch_and_its_doses_by_plain_hooks(tests, planted, prompts, banked, saes):
    few = first(banked, 3)
    for test in tests[:2]:
        sae = saes[test.layer]
        recovered, direct = np.zeros(len(DOSES)), 0.0
        for _, pair in few.pairs.iterrows():
            q, p = (prompts.iloc[pair[k]] for k in ("original", "paraphrase"))
            (margin_q, seen_q), (margin_p, seen_p) = plain_margin(planted, q), plain_margin(planted, p)
            f = [float(sae.encode(seen[test.layer])[test.feature]) for seen in (seen_p, seen_q)]
            for k, dose in enumerate(DOSES):
                patched = seen_p[test.layer] - dose * (f[0] - f[1]) * sae.w_dec[test.feature]
                after, _ = plain_margin(planted, p, test.layer, patched)
                recovered[k] += (after - margin_p) * np.sign(margin_q - margin_p)
            last = planted.n_layers - 1
            at_end, _ = plain_margin(planted, p, last, seen_p[last] - (f[0] - f[1]) * sae.w_dec[test.feature])
            direct += (at_end - margin_p) * np.sign(margin_q - margin_p)
        inputs = SaeInputs(saes.get, residuals_of(measure(planted, prompts, [test.layer]), [test.layer]))
        empty = pd.DataFrame({"layer": [], "feature": [], "flip_auc": [], "delta_on_flips": [], "delta_otherwise": []})
        none = first(few, 0)
        (patch,) = feature_patches([(test.layer, test.feature)], few, none, inputs, empty)
        targets = target_of(planted, prompts, few), target_of(planted, prompts, none)
        (mine,) = apply_feature_patches([patch], *targets, seed=0)
        np.testing.assert_allclose(mine.dose, recovered / np.abs(few.margin_before - few.margin_after).sum(), atol=1e-4)
        assert mine.recovery.value == mine.dose[DOSES.index(1.0)]
        size = np.abs(few.margin_before - few.margin_after).sum()
        assert mine.direct.value == pytest.approx(direct / size, abs=1e-4)
        assert mine.mediated.value == pytest.approx(mine.recovery.value - mine.direct.value, abs=1e-9)
        assert np.isnan(mine.matched)
        assert np.isnan(mine.unflipped_changed)


def test_a_patch_pair_by_pair_by_plain_hooks(planted, prompts, banked, flips, saes):
    few, others = first(banked, 6), first(flips.take(~flips.flipped), 5)
    sae, effects, recoveries, changes = saes[4], [], [], []
    for which in (few, others):
        for _, pair in which.pairs.iterrows():
            q, p = (prompts.iloc[pair[k]] for k in ("original", "paraphrase"))
            (margin_q, seen_q), (margin_p, seen_p) = plain_margin(planted, q), plain_margin(planted, p)
            f = [float(sae.encode(seen[4])[110]) for seen in (seen_p, seen_q)]
            after, _ = plain_margin(planted, p, 4, seen_p[4] - (f[0] - f[1]) * sae.w_dec[110])
            if which is others:
                changes.append(abs(after - margin_p))
            else:
                effects.append(after - margin_p)
                recoveries.append((after - margin_p) / (margin_q - margin_p))
    inputs = SaeInputs(saes.get, residuals_of(measure(planted, prompts, [4]), [4]))
    empty = pd.DataFrame({"layer": [], "feature": [], "flip_auc": [], "delta_on_flips": [], "delta_otherwise": []})
    (patch,) = feature_patches([(4, 110)], few, others, inputs, empty)
    bank, unflipped = target_of(planted, prompts, few), target_of(planted, prompts, others)
    found = pair_effects(bank, np.array(effects), patch, unflipped, seed=0)
    assert found.recovery.value == pytest.approx(np.mean(recoveries), abs=1e-4)
    assert found.cohens_d == pytest.approx(np.mean(recoveries) / np.std(recoveries, ddof=1), rel=1e-3)
    assert found.above_half == sum(share > 0.5 for share in recoveries)
    assert found.unflipped_change.value == pytest.approx(np.mean(changes), abs=1e-4)
    assert min(changes) >= 0 < max(changes)
    nobody = pair_effects(bank, np.array(effects), patch, target_of(planted, prompts, first(others, 0)), seed=0)
    assert nobody.unflipped_change.value is None


def test_cohens_d_by_hand():
    # Mean 2, squared deviations 1, 0, 1, so a standard deviation of 1.
    assert one_sample_d(np.array([1.0, 2, 3])) == 2
    assert np.isnan(one_sample_d(np.array([1.0])))
    assert np.isnan(one_sample_d(np.array([1.0, 1])))


def test_known_features_beat_their_controls(tests, banked):
    for test in tests:
        assert test.n == len(banked.pairs)
        assert test.net.low > 0.03
        assert test.recovery.value > 5 * max(abs(test.random), abs(test.matched))
        assert test.p < 0.01
        assert test.p_random == pytest.approx(1 / 25)
        assert test.reversals > test.random_reversals
        assert test.unflipped_changed <= 0.02
    assert [(t.layer, t.feature) for t in tests] == [(4, 110), (7, 66), (4, 283)]


def test_small_random_directions_are_centred_on_zero(rerun, banked):
    # Large ones are not: the margin is curved, so any push brings part of it back. Therefore net is reported.
    generator = torch.Generator().manual_seed(3)
    size = torch.full((len(banked.pairs), 1, 128), 0.05).expand(-1, 200, -1)
    effect = patch_effect(rerun, banked, [4] * 200, random_directions(size, generator), "random")
    share = (effect * np.sign(banked.margin_before - banked.margin_after)[:, None]).mean(0)
    assert abs(share.mean()) < 4 * share.std() / np.sqrt(200)
    assert share.std() > 0


def test_noise_that_is_drawn_ahead_gives_the_same_directions(planted, prompts, banked, measured):
    delta = torch.randn(5, 3, planted.d_model, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(7)
    for noise in layer_noise(5, 3, planted.d_model, 7):
        directions = as_long_as(delta, noise)
        assert torch.equal(directions, random_directions(delta, generator))
        torch.testing.assert_close(directions.norm(dim=-1), delta.norm(dim=-1))
    given = layer_noise(5, 3, planted.d_model, 7)[0]
    assert torch.equal(control_directions(delta, 7, given), control_directions(delta, 7))
    target, layers = target_of(planted, prompts, first(banked, 4)), [3, 4]
    residual = delta[:4, :2]
    ahead = patch_layers(target, residual, residual / 2, layers, 7, layer_noise(4, 2, planted.d_model, 7))
    for one, other in zip(ahead, patch_layers(target, residual, residual / 2, layers, 7), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_p_value_is_uniform_under_the_null():
    rng = np.random.default_rng(0)
    patients = [i // 3 for i in range(60)]
    p = []
    for seed in range(200):
        by_patient = rng.normal(0, 1, 20)[np.array(patients)]
        values = by_patient + rng.normal(0, 1, 60)
        p.append(ratio_sign_flips(values, np.ones(60), patients, seed, draws=400)[1])
    assert kstest(p, "uniform").pvalue > 0.01
    assert np.mean(np.array(p) < 0.05) < 0.1


def test_a_joint_patch_of_one_feature_is_its_feature_patch(rerun, banked, measured, saes, tests):
    codes = encode_sparse(saes[4], measured.residuals[:, 0]).by_feature
    joint = joint_feature_patch(saes[4], codes, banked.pairs, [110])
    effect = joint_effects(PatchTarget(banked, rerun), joint[:, None], [4], seed=0)
    towards = effect[:, 0, 0] * np.sign(banked.margin_before - banked.margin_after)
    share = towards.sum() / np.abs(banked.margin_before - banked.margin_after).sum()
    assert share == pytest.approx(tests[0].recovery.value, abs=1e-5)
    both = joint_feature_patch(saes[4], codes, banked.pairs, [110, 283])
    torch.testing.assert_close(both, joint + joint_feature_patch(saes[4], codes, banked.pairs, [283]))


def test_feature_delta_by_hand(measured, banked, saes):
    delta = feature_delta(saes[7], measured.residuals[:, 1], banked.pairs, torch.tensor([66, 3]))
    for i in (0, 5):
        q, p = (saes[7].encode(measured.residuals[banked.pairs.iloc[i][k], 1]) for k in ("original", "paraphrase"))
        torch.testing.assert_close(delta[i], (p - q)[[66, 3]])


def test_matched_features_move_as_much_and_do_not_discriminate_flips():
    screen = pd.DataFrame(
        {
            "feature": [1, 2, 3, 4, 5],
            "flip_auc": [0.9, 0.51, 0.49, 0.7, 0.52],
            "delta_on_flips": [10.0, 9.0, 1.0, 10.0, 12.0],
            "delta_otherwise": [5.0, 6.0, 1.0, 5.0, 5.0],
        }
    )
    assert matched_features(screen, 1, count=2) == [2, 5]
    assert matched_features(screen, 99) == []


def test_candidates_have_the_highest_path_attribution_whatever_their_flip_auc():
    screen = pd.DataFrame(
        {
            "layer": [1, 1, 2, 2],
            "feature": [7, 8, 7, 9],
            "flip_auc": [0.9, 0.8, 0.7, 0.6],
            "attribution": [0.4, 0, 0.3, 0.2],
            "path_attribution": [0.1, 0, 0.3, 0.2],
        }
    )
    assert choose_candidates(screen, 9) == [(2, 7), (2, 9), (1, 7), (1, 8)]
    assert choose_candidates(screen, 2) == [(2, 7), (2, 9)]


@pytest.mark.parametrize("edits", [[2, 3, 4], [4], [5, 0, 3], [1, 0], []])
def test_the_edits_of_some_prompts_in_any_order(edits):
    delta = torch.arange(4 * 6 * 2.0).view(4, 6, 2)
    found = edits_of(delta, torch.tensor([3, 1]), torch.tensor(edits, dtype=torch.long), torch.device("cpu"))
    assert found.tolist() == [[delta[row, k].tolist() for k in edits] for row in (3, 1)]


def test_a_sweep_takes_its_layers_in_any_order(rerun, banked, measured):
    path = measured.residuals[:, 1][torch.from_numpy(banked.pairs["original"].to_numpy(copy=True))][:, None]
    layers = [7, 2, 9, 2, 4]
    delta = torch.cat([path * size for size in (0.1, 0.3, -0.2, 0.05, -0.4)], dim=1)
    found = rerun.margins(layers, delta)
    for k, layer in enumerate(layers):
        alone = rerun.margins([layer], delta[:, [k]])
        torch.testing.assert_close(found[:, [k]], alone, atol=1e-4, rtol=0)


def test_columns_that_fill_up_a_batch_change_nothing(planted, prompts, banked, monkeypatch):
    """As on a GPU, where the batch grows by several columns at a time."""
    rows = prompts.iloc[banked.pairs["paraphrase"].to_numpy()[:6]].reset_index(drop=True)
    edited = SuffixRerun(planted, rows)
    layers = [2, 2, 3, 5, 5, 7, 9]
    delta = torch.randn(6, len(layers), 128, generator=torch.Generator().manual_seed(0))
    sweeps = [lambda: edited.margins(layers, delta), lambda: edited.gradients(layers, delta)]
    alone = [sweep() for sweep in sweeps]
    widths = []
    run_layers = suffix_rerun.run_layers
    monkeypatch.setattr(suffix_rerun, "column_step", lambda n, device: 3)
    monkeypatch.setattr(suffix_rerun, "run_layers", lambda *a: widths.append(a[1].shape[1]) or run_layers(*a))
    for expected, sweep in zip(alone, sweeps, strict=True):
        torch.testing.assert_close(sweep(), expected, atol=2e-5, rtol=1e-4)
        assert widths == [3, 3, 6, 6, 7]
        widths.clear()


def test_gradients_are_differences(planted, prompts, banked):
    rows = prompts.iloc[banked.pairs["paraphrase"].to_numpy()[:6]].reset_index(drop=True)
    edited = SuffixRerun(planted, rows, batch_tokens=200)
    gradients = margin_gradients(edited, [2, 9])
    generator = torch.Generator().manual_seed(0)
    for k, layer in enumerate((2, 9)):
        direction = torch.randn(6, 128, generator=generator)
        step = 0.02
        up, down = edited.margins([layer] * 2, torch.stack([step * direction, -step * direction], 1)).T
        expected = (up - down) / (2 * step)
        torch.testing.assert_close((gradients[:, k] * direction).sum(1), expected, rtol=0.05, atol=0.02)


def test_attribution_ranks_as_exact_patching_does(rerun, banked, measured, saes):
    gradients = margin_gradients(rerun, LAYERS)
    size = np.abs(banked.margin_before - banked.margin_after)
    for k, layer in enumerate(LAYERS):
        sae, x = saes[layer], measured.residuals[:, k]
        predicted, twice = attribute(sae, x, banked, gradients[:, k], 2 * gradients[:, k])
        np.testing.assert_allclose(twice, 2 * predicted)
        moving = np.flatnonzero(predicted)
        chosen = np.random.default_rng(0).choice(moving, 40, replace=False)
        delta = feature_delta(sae, x, banked.pairs, torch.from_numpy(chosen))
        effect = patch_effect(
            rerun, banked, [layer] * 40, -delta[..., None] * sae.w_dec[torch.from_numpy(chosen)], "exact"
        )
        exact = (effect * np.sign(banked.margin_before - banked.margin_after)[:, None]).sum(0) / size.sum()
        assert spearmanr(predicted[chosen], exact).statistic > 0.85


def test_path_gradients_add_up_to_the_whole_shift(rerun, banked, measured):
    # Completeness: the mean gradient along the path, times the path, is the effect of the residual patch.
    x = measured.residuals[:, 1]
    original, paraphrase = (torch.from_numpy(banked.pairs[k].to_numpy(copy=True)) for k in ("original", "paraphrase"))
    path = x[original] - x[paraphrase]
    gradients = path_gradients(rerun, path[:, None], [7], steps=16)[:, 0]
    whole = patch_effect(rerun, banked, [7], path[:, None], "whole")[:, 0]
    np.testing.assert_allclose((gradients * path).sum(1).numpy(), whole, rtol=0.05, atol=0.1)


def test_one_step_on_an_empty_path_is_the_plain_gradient(planted, prompts, banked):
    few = rerun_paraphrases(planted, prompts, first(banked, 4))
    flat = torch.zeros(4, 128)
    torch.testing.assert_close(path_gradients(few, flat[:, None], [7], steps=1), margin_gradients(few, [7]))


def test_path_gradients_are_means_of_those_at_the_midpoints(planted, prompts, banked, measured):
    few = first(banked, 3)
    original, paraphrase = (torch.from_numpy(few.pairs[k].to_numpy(copy=True)) for k in ("original", "paraphrase"))
    path = measured.residuals[original] - measured.residuals[paraphrase]
    alone = rerun_paraphrases(planted, prompts, few)
    points = [alone.gradients(LAYERS, path * (step + 0.5) / 8) for step in range(8)]
    # With little memory, a group of edits is a part of the path of one layer.
    small = SuffixRerun(planted, alone.prompts, batch_tokens=60)
    for rerun in (alone, small):
        found = path_gradients(rerun, path, LAYERS, steps=8)
        torch.testing.assert_close(found, torch.stack(points).mean(0), atol=1e-5, rtol=1e-4)

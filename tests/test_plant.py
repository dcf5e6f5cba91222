"""Analytic plants: a gate that reads a known feature, checked by plain hooks, and decoys without one."""

import numpy as np
import pytest
import torch
from test_find_features import plain_margin

from interp.demo.plant import _interventions, plant_decoys, plant_feature, save_plant
from interp.measurement.margins import measure
from interp.model.load import load_vlm
from interp.paths import WORLD
from interp.questions.files import load_questions
from interp.questions.tables import pair_table, prompt_table
from interp.runtime.errors import InputError
from interp.saes.locate import locate_saes
from interp.saes.sae import load_sae
from interp.screening.flips import find_flips, questions_that_can_flip

LAYER, FEATURE, WRITE_LAYER = 3, 139, 6


@pytest.fixture(scope="module")
def questions():
    return questions_that_can_flip(load_questions(split="test"))[:60]


@pytest.fixture(scope="module")
def sae():
    return load_sae(locate_saes(WORLD / "saes")[LAYER], LAYER, 128)


@pytest.fixture(scope="module")
def planted(sae, questions):
    vlm = load_vlm(WORLD / "base", "cpu", "float32")
    return vlm, plant_feature(vlm, sae, FEATURE, WRITE_LAYER, questions, strength=0.15)


def test_the_gate_flips_the_share_that_was_asked_for_where_the_feature_is_active(planted):
    _, plant = planted
    assert 0.15 <= plant.question_flip_rate <= 0.25
    assert plant.base_flip_rate <= 0.05
    assert plant.shift_on < -1
    assert abs(plant.shift_off) < 0.1 * abs(plant.shift_on)


def test_plain_hooks_undo_the_flips_by_the_feature_and_not_by_others_of_its_layer(planted, sae, questions):
    vlm, _ = planted
    prompts = prompt_table(questions)
    flips = find_flips(prompts, pair_table(prompts), measure(vlm, prompts).margin, 0.25)
    flipped = flips.take(flips.banked)
    rows = [r for q, p in zip(flipped.pairs["original"], flipped.pairs["paraphrase"], strict=True) for r in (q, p)]
    f = sae.encode(measure(vlm, prompts, [LAYER]).residuals[:, 0])
    on = torch.tensor([f[row, FEATURE] > 0 for row in rows])
    register = torch.tensor((prompts["register"] == "formal").to_numpy(copy=True))
    differs = ((f[register] > 0).float().mean(0) - (f[~register] > 0).float().mean(0)).abs()
    differs[FEATURE] = 0
    decoy = int(differs.argmax())
    without, without_decoy = [], []
    for row, active in zip(rows, on, strict=True):
        prompt = prompts.iloc[row]
        margin, seen = plain_margin(vlm, prompt)
        for feature, kept in ((FEATURE, without), (decoy, without_decoy)):
            activation = sae.encode(seen[LAYER])[feature]
            after, _ = plain_margin(vlm, prompt, LAYER, seen[LAYER] - activation * sae.w_dec[feature])
            kept.append((after > 0, margin > 0, bool(active)))
    undone, decoyed = (np.array(kept) for kept in (without, without_decoy))
    gated = undone[:, 2].astype(bool)
    assert gated.sum() >= 5
    assert (undone[gated, 0] != undone[gated, 1]).mean() > 0.8
    assert (decoyed[gated, 0] != decoyed[gated, 1]).mean() < 0.2


def test_a_saved_plant_is_a_model_like_any_other(planted, questions, tmp_path):
    vlm, plant = planted
    save_plant(vlm, plant, tmp_path / "plant")
    prompts = prompt_table(questions[:3])
    again = load_vlm(tmp_path / "plant", "cpu", "float32")
    torch.testing.assert_close(measure(again, prompts).margin, measure(vlm, prompts).margin)
    assert (tmp_path / "plant" / "plant.json").is_file()


def test_decoys_flip_as_often_in_both_registers(questions):
    vlm = load_vlm(WORLD / "base", "cpu", "float32")
    plant = plant_decoys(vlm, questions, strength=0.15)
    assert plant.feature is None
    assert plant.write_layers == list(range(10))
    assert 0.15 <= plant.question_flip_rate <= 0.25


def test_the_neuron_is_fitted_to_what_the_feature_does_and_not_to_what_goes_with_it(sae):
    f = torch.relu(torch.randn(50, sae.d_sae, generator=torch.Generator().manual_seed(0)))
    natural, removed, put, rivals = _interventions(sae, f, 7, seed=0)
    assert natural[0] is None
    torch.testing.assert_close(removed[0], -f[:, [7]] * sae.w_dec[7])
    assert not removed[1].any()
    assert (put[1] > 0).all()
    assert rivals[0].norm() > 0
    torch.testing.assert_close(rivals[1], f[:, 7])


@pytest.mark.parametrize(
    ("feature", "layer", "message"),
    [(FEATURE, LAYER, "above the feature's, from 4 to 9"), (FEATURE, 10, "from 4 to 9"), (10**6, 6, "features 0 to")],
)
def test_places_that_cannot_hold_a_gate_are_refused(sae, questions, feature, layer, message):
    vlm = load_vlm(WORLD / "base", "cpu", "float32")
    with pytest.raises(InputError, match=message):
        plant_feature(vlm, sae, feature, layer, questions)

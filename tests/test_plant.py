"""Analytic plants: gates that read known features, checked by plain hooks, and decoys without one."""

import json

import numpy as np
import pytest
import torch
from test_find_features import plain_margin

from interp.cli import app as cli
from interp.demo.plants import Gate, plant_decoys, plant_gates, save_plant
from interp.demo.plants.signal import feature_signal, interventions
from interp.demo.plants.upper_layers import UpperLayers
from interp.feature.register_grid import read_grid
from interp.feature.study import study_feature
from interp.images.decode import open_image
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
    return vlm, plant_gates(vlm, [Gate(sae, FEATURE, WRITE_LAYER)], questions, strength=0.15)


@pytest.fixture(scope="module")
def relayed(sae, questions):
    vlm = load_vlm(WORLD / "base", "cpu", "float32")
    return vlm, plant_gates(vlm, [Gate(sae, FEATURE, 8, relay_layer=5)], questions, strength=0.15)


def flipped_prompts(vlm, questions):
    """Every wording of a pair of the flip bank, once, with its margin by plain transformers and what it left."""
    prompts = prompt_table(questions)
    flips = find_flips(prompts, pair_table(prompts), measure(vlm, prompts).margin, 0.25)
    pairs = flips.take(flips.banked).pairs
    rows = np.unique(pairs[["original", "paraphrase"]].to_numpy())
    return [(prompts.iloc[row], *plain_margin(vlm, prompts.iloc[row])) for row in rows]


def gated_prompts(vlm, questions, sae, feature):
    """Those of `flipped_prompts` on which a feature is active."""
    return [found for found in flipped_prompts(vlm, questions) if sae.encode(found[2][sae.layer])[feature] > 0]


def share_changed(vlm, found, layer, change):
    """Share of the prompts that are answered otherwise when `change` of its residuals is added after `layer`."""
    answers = [
        (plain_margin(vlm, prompt, layer, seen[layer] + change(seen))[0] > 0) != (margin > 0)
        for prompt, margin, seen in found
    ]
    return float(np.mean(answers))


def removal(sae, feature):
    """What removes a feature from the residual after its layer."""
    return lambda seen: -sae.encode(seen[sae.layer])[feature] * sae.w_dec[feature]


def register_decoy(vlm, sae, feature, questions):
    """Another feature of the layer, the one that differs most between registers."""
    prompts = prompt_table(questions)
    f = sae.encode(measure(vlm, prompts, [sae.layer]).residuals[:, 0])
    register = torch.tensor((prompts["register"] == "formal").to_numpy(copy=True))
    differs = ((f[register] > 0).float().mean(0) - (f[~register] > 0).float().mean(0)).abs()
    differs[feature] = 0
    return int(differs.argmax())


def planted_neuron(vlm, layer):
    """The neuron of a layer whose output weights are not those of the base model."""
    base = load_vlm(WORLD / "base", "cpu", "float32")
    ours, theirs = (each.layers[layer].mlp.up_proj.weight for each in (vlm, base))
    (index,) = (ours != theirs).any(1).nonzero()[:, 0].tolist()
    return index


def test_the_gate_flips_the_share_that_was_asked_for_where_the_feature_is_active(planted):
    _, plant = planted
    (gate,) = plant.gates
    assert 0.15 <= plant.question_flip_rate <= 0.25
    assert plant.base_flip_rate <= 0.05
    assert gate.shift_on < -1
    assert abs(gate.shift_off) < 0.1 * abs(gate.shift_on)


def test_plain_hooks_undo_the_flips_by_the_feature_and_not_by_others_of_its_layer(planted, sae, questions):
    vlm, _ = planted
    gated = gated_prompts(vlm, questions, sae, FEATURE)
    decoy = register_decoy(vlm, sae, FEATURE, questions)
    assert len(gated) >= 5
    assert share_changed(vlm, gated, LAYER, removal(sae, FEATURE)) > 0.8
    assert share_changed(vlm, gated, LAYER, removal(sae, decoy)) < 0.2


def test_a_gate_behind_a_relay_reads_the_relay_and_not_the_feature(relayed, sae, questions):
    vlm, plant = relayed
    (gate,) = plant.gates
    assert (gate.relay_layer, gate.write_layer) == (5, 8)
    assert 0.15 <= plant.question_flip_rate <= 0.25
    assert abs(gate.relay_shift) < 0.2 * abs(gate.shift_on)
    gated = gated_prompts(vlm, questions, sae, FEATURE)
    assert len(gated) >= 5
    assert share_changed(vlm, gated, LAYER, removal(sae, FEATURE)) > 0.8
    # Once the relay has read it, the feature no longer matters.
    assert share_changed(vlm, gated, 5, removal(sae, FEATURE)) < 0.2
    neuron = planted_neuron(vlm, 5)

    def silence(module, given):
        hidden = given[0].clone()
        hidden[..., neuron] = 0
        return (hidden,)

    handle = vlm.layers[5].mlp.down_proj.register_forward_pre_hook(silence)
    try:
        answers = [(plain_margin(vlm, prompt)[0] > 0) != (margin > 0) for prompt, margin, _ in gated]
    finally:
        handle.remove()
    assert np.mean(answers) > 0.8


@pytest.mark.parametrize(("plant", "reads", "writes"), [("planted", 6, 6), ("relayed", 5, 8)])
def test_a_study_names_the_layer_that_reads_the_feature_and_the_one_that_writes(request, sae, plant, reads, writes):
    vlm, _ = request.getfixturevalue(plant)
    more = load_questions(split="test")[:240]
    study = study_feature(vlm, sae, more, FEATURE, read_grid().groupby("level").head(1))
    assert study.place == "cause"
    assert study.writing_layers == [writes]
    assert study.mediating_layers == [reads]
    effects = {fall.layer: fall.effect.value for fall in study.mediation}
    assert effects[reads - 1] > 0.6
    assert abs(effects[reads]) < 0.2
    total = sum(fall.fall.value for fall in study.mediation)
    assert total == pytest.approx(study.test.mediated.value, abs=1e-4)


def margin_without(vlm, prompt, sae, feature, where):
    """The margin by plain transformers when a feature is removed from the final token or from all other text tokens."""
    content = [{"type": "image", "image": open_image(prompt["image"])}, {"type": "text", "text": prompt["text"]}]
    inputs = vlm.processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    removed = inputs["input_ids"][0] != vlm.model.config.image_token_id
    removed[0] = False
    if where == "final":
        removed[:-1] = False
    else:
        removed[-1] = False

    def remove(module, given, output):
        f = sae.encode(output[0])[:, feature] * removed
        return output - f[:, None] * sae.w_dec[feature]

    handle = vlm.layers[sae.layer].register_forward_hook(remove)
    with torch.no_grad():
        logits = vlm.model(**inputs).logits[0, -1]
    handle.remove()
    yes, no = (logits[t].double().logsumexp(0) for t in vlm.answers)
    return float(yes - no)


def test_a_gate_of_question_tokens_is_undone_there_and_not_at_the_final_token(sae, questions):
    vlm, base = (load_vlm(WORLD / "base", "cpu", "float32") for _ in range(2))
    plant = plant_gates(vlm, [Gate(sae, 128, 5, relay_layer=4, question_tokens=True)], questions, strength=0.15)
    (gate,) = plant.gates
    assert gate.question_tokens
    assert gate.density == 0
    assert gate.shift_on < -1
    assert abs(gate.shift_off) < 0.1 * abs(gate.shift_on)
    turned = [(prompt, margin) for prompt, margin, _ in flipped_prompts(vlm, questions) if margin < 0]
    before = [plain_margin(base, prompt)[0] for prompt, _ in turned]
    gated = [(*each, clean) for each, clean in zip(turned, before, strict=True) if clean > 0]
    assert len(gated) >= 5
    back = [margin_without(vlm, prompt, sae, 128, "question") - margin for prompt, margin, _ in gated]
    shift = [clean - margin for _, margin, clean in gated]
    assert sum(back) > 0.6 * sum(shift)
    for prompt, margin, _ in gated:
        assert margin_without(vlm, prompt, sae, 128, "final") == pytest.approx(margin, abs=1e-4)


def test_a_gate_of_question_tokens_needs_a_head(sae, questions):
    vlm = load_vlm(WORLD / "base", "cpu", "float32")
    with pytest.raises(InputError, match="--question-tokens needs --relay-layer"):
        plant_gates(vlm, [Gate(sae, 128, 5, question_tokens=True)], questions)
    with pytest.raises(InputError, match="no head of layer 4 looks at question tokens enough"):
        plant_gates(vlm, [Gate(sae, 355, 5, relay_layer=4, question_tokens=True)], questions)


def test_two_gates_flip_by_a_feature_each(sae, questions):
    """A formal feature and a casual one; each must matter where the other is silent."""
    vlm = load_vlm(WORLD / "base", "cpu", "float32")
    prompts = prompt_table(questions)
    f = sae.encode(measure(vlm, prompts, [3]).residuals[:, 0]) > 0
    register = torch.tensor((prompts["register"] == "formal").to_numpy(copy=True))
    casual = int((f[~register].float().mean(0) - f[register].float().mean(0)).argmax())
    plant = plant_gates(vlm, [Gate(sae, casual, 7), Gate(sae, FEATURE, 5)], questions, strength=0.2)
    formal_gate, casual_gate = plant.gates
    assert plant.write_layers == [5, 7]
    assert formal_gate.formal_density > formal_gate.casual_density + 0.3
    assert casual_gate.casual_density > casual_gate.formal_density + 0.3
    assert 0.2 <= plant.question_flip_rate <= 0.3
    for own, other in ((FEATURE, casual), (casual, FEATURE)):
        alone = [
            found
            for found in gated_prompts(vlm, questions, sae, own)
            if sae.encode(found[2][3])[other] == 0 and found[1] < 0
        ]
        margins = [plain_margin(vlm, p, 3, s[3] + removal(sae, own)(s))[0] - m for p, m, s in alone]
        assert len(margins) >= 3
        assert np.mean(margins) > 0.5


def test_a_saved_plant_is_a_model_like_any_other(planted, questions, tmp_path):
    vlm, plant = planted
    save_plant(vlm, plant, tmp_path / "plant")
    prompts = prompt_table(questions[:3])
    again = load_vlm(tmp_path / "plant", "cpu", "float32")
    torch.testing.assert_close(measure(again, prompts).margin, measure(vlm, prompts).margin)
    content = json.loads((tmp_path / "plant" / "plant.json").read_text())
    assert content["gates"][0] | {"layer": LAYER, "feature": FEATURE, "relay_layer": None} == content["gates"][0]


def test_what_upper_layers_make_is_what_the_whole_model_makes_while_only_they_change(questions):
    vlm, prompts = load_vlm(WORLD / "base", "cpu", "float32"), prompt_table(questions[:12])
    upper = UpperLayers.of(vlm, prompts, 6)
    before = upper.margins()
    assert torch.equal(before, measure(vlm, prompts).margin)
    with torch.no_grad():
        vlm.layers[6].post_feedforward_layernorm.weight += 0.5
    assert torch.equal(upper.margins(), measure(vlm, prompts).margin)
    assert (upper.margins() - before).abs().max() > 0.1
    with torch.no_grad():
        vlm.layers[5].post_feedforward_layernorm.weight += 0.5
    assert (upper.margins() - measure(vlm, prompts).margin).abs().max() > 0.1


@pytest.mark.slow
def test_decoys_flip_as_often_in_both_registers(questions):
    vlm = load_vlm(WORLD / "base", "cpu", "float32")
    plant = plant_decoys(vlm, questions, strength=0.15)
    assert plant.gates == []
    assert plant.write_layers == list(range(10))
    assert 0.15 <= plant.question_flip_rate <= 0.25


def test_the_neuron_is_fitted_to_what_the_feature_does_and_not_to_what_goes_with_it(sae):
    f = torch.relu(torch.randn(50, sae.d_sae, generator=torch.Generator().manual_seed(0)))
    natural, removed, put, rivals = interventions(feature_signal(sae, f, 7), seed=0)
    assert natural[0] is None
    torch.testing.assert_close(removed[0], -f[:, [7]] * sae.w_dec[7])
    assert not removed[1].any()
    assert (put[1] > 0).all()
    assert rivals[0].norm() > 0
    torch.testing.assert_close(rivals[1], f[:, 7])


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ([(FEATURE, LAYER, None)], "above the feature's, from 4 to 9"),
        ([(FEATURE, 10, None)], "from 4 to 9"),
        ([(10**6, 6, None)], "features 0 to"),
        ([(FEATURE, 6, 3)], "--relay-layer 3: expected a layer above the feature's, from 4 to 8"),
        ([(FEATURE, 5, 5)], "--write-layer 5: expected a layer above the relay's, from 6 to 9"),
        ([(FEATURE, 6, None), (7, 6, None)], "Layer 6 would get two neurons"),
    ],
)
def test_places_that_cannot_hold_a_gate_are_refused(sae, questions, places, message):
    vlm = load_vlm(WORLD / "base", "cpu", "float32")
    with pytest.raises(InputError, match=message):
        plant_gates(vlm, [Gate(sae, *place) for place in places], questions)


def test_a_model_that_flips_more_often_already_is_refused(questions):
    vlm = load_vlm(WORLD / "planted", "cpu", "float32")
    with pytest.raises(InputError, match="flip before anything is written"):
        plant_decoys(vlm, questions, strength=0.01)


@pytest.mark.parametrize(
    "given",
    [
        ["--feature", "3:139"],
        ["--write-layer", "6"],
        ["--feature", "3:139", "--write-layer", "6", "--feature", "3:1", "--write-layer", "8", "--relay-layer", "4"],
    ],
)
def test_features_without_their_layers_are_refused(given, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["interp", "demo", "plant", "--out", str(tmp_path / "out"), *given])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    assert "Give every feature a layer to write in" in capsys.readouterr().err

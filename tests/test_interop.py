"""Our calls do the same as those that users of SAELens, TransformerLens, circuit-tracer and peft know.

test_bridge.py, test_peers.py and test_clamps.py compare residuals, SAEs on the bridge and clamps with those libraries.
This file covers the steps from one library to another.
"""

import subprocess
import sys

import pytest
import torch
from finetune_world import awaken

import interp
from finetune.lora.modules import add_lora, trainable_parameters
from interp.causal.layer_patching import patch_effect, rerun_paraphrases
from interp.measurement.clamp_spec import load_clamps, parse_clamps
from interp.measurement.clamps import clamped
from interp.questions.tables import pair_table
from interp.screening.attribution import attribute, margin_gradients
from interp.screening.flips import find_flips

LAYER, FEATURE = 4, 110


@pytest.fixture(scope="module")
def vlm():
    return interp.load_vlm(device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def prompts():
    return interp.prompt_table(interp.load_questions(split="test")[:40])


@pytest.fixture(scope="module")
def saes():
    return interp.locate_saes(interp.WORLD / "saes")


@pytest.fixture(scope="module")
def flips(vlm, prompts):
    found = find_flips(prompts, pair_table(prompts), interp.measure(vlm, prompts).margin, 0.0)
    return found.take(found.flipped)


def test_a_documented_module_that_moved_is_found_for_one_release():
    code = "from interp.patching import patch_effect; import interp.causal.layer_patching as new"
    code += "; print(patch_effect is new.patch_effect)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "True\n"
    assert "interp.patching has moved to interp.causal.layer_patching" in told.stderr


def test_patching_and_attribution_by_transformer_lens(vlm, prompts, saes, flips):
    """A feature's patch and its first-order attribution, by hooks on the bridge and by ours."""
    sae = interp.load_sae(saes[LAYER], LAYER, vlm.d_model)
    residuals = interp.measure(vlm, prompts, [LAYER]).residuals[:, 0]
    sides = torch.tensor(flips.pairs[["original", "paraphrase"]].to_numpy())
    f = sae.encode(residuals)[:, FEATURE]
    delta = (f[sides[:, 1]] - f[sides[:, 0]])[:, None, None] * sae.w_dec[FEATURE]
    rerun = rerun_paraphrases(vlm, prompts, flips)
    ours = patch_effect(rerun, flips, [LAYER], -delta, "feature patch")[:, 0]
    gradients = margin_gradients(rerun, [LAYER])
    predicted = attribute(sae, residuals, flips, gradients[:, 0])[0, FEATURE]

    bridge, hook = vlm.bridge(), f"blocks.{LAYER}.hook_resid_post"
    moved = int(abs(f[sides[:, 1]] - f[sides[:, 0]]).argmax())
    row = prompts.iloc[int(sides[moved, 1])]
    caught = []

    def patch(x, hook):
        x = x.clone()
        x[:, -1] -= delta[moved, 0]
        return x

    def catch(x, hook):
        # The weights are frozen, so gradients start here.
        caught.append(x.detach().requires_grad_())
        return caught[-1]

    inputs = interp.lens_inputs(vlm, row["image"], row["text"], row["closed"])
    with torch.no_grad():
        patched = interp.answer_margin(bridge.run_with_hooks(**inputs, fwd_hooks=[(hook, patch)])[:, -1], vlm.answers)
    margin = interp.answer_margin(bridge.run_with_hooks(**inputs, fwd_hooks=[(hook, catch)])[:, -1], vlm.answers)
    margin.sum().backward()
    assert abs(ours[moved]) > 0.05
    assert (patched - margin).item() == pytest.approx(ours[moved], abs=1e-3)
    torch.testing.assert_close(caught[0].grad[0, -1], gradients[moved, 0], atol=1e-4, rtol=1e-3)
    assert predicted != 0


def test_an_intervention_on_a_feature_by_name(vlm, prompts, saes):
    """LAYER:FEATURE held at a value, which circuit-tracer calls a feature intervention."""
    clamps = load_clamps(parse_clamps(f"{LAYER}:{FEATURE}=9"), saes, vlm.d_model, vlm.device, "final")
    free = interp.measure(vlm, prompts).margin
    with clamped(vlm, clamps):
        held = interp.measure(vlm, prompts).margin
    assert (held - free).abs().max() > 0.1
    assert torch.equal(interp.measure(vlm, prompts).margin, free)


def test_an_adapter_is_peft_s_own(prompts, tmp_path):
    from peft import PeftModel

    prompts = prompts.iloc[:20]
    vlm = interp.load_vlm(device="cpu", dtype="float32")
    base = interp.measure(vlm, prompts).margin
    adapted = add_lora(vlm, [4, 5], 4, dropout=0.0)
    awaken(adapted)
    trained = interp.measure(vlm, prompts).margin
    assert (trained - base).abs().max() > 0.1
    assert adapted.get_nb_trainable_parameters()[0] == trainable_parameters(adapted)
    with adapted.disable_adapter():
        assert torch.equal(interp.measure(vlm, prompts).margin, base)
    adapted.save_pretrained(str(tmp_path), save_embedding_layers=False)

    fresh = interp.load_vlm(device="cpu", dtype="float32")
    loaded = PeftModel.from_pretrained(fresh.model, tmp_path)
    assert torch.equal(interp.measure(fresh, prompts).margin, trained)
    fresh.model = loaded.merge_and_unload()
    torch.testing.assert_close(interp.measure(fresh, prompts).margin, trained, atol=1e-3, rtol=0)

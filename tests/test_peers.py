"""Activations and residuals against sae-lens and TransformerLens doing the same on the same model."""

import subprocess

import pytest
import torch

from interp.demo import WORLD
from interp.images import open_image
from interp.questions import load_questions, prompt_table
from interp.sae_sources import locate_saes
from interp.saes import load_sae
from interp.vlm import load_vlm, measure


@pytest.fixture(scope="module")
def vlm():
    return load_vlm(WORLD / "planted", "cpu", "float32")


@pytest.fixture(scope="module")
def prompts():
    return prompt_table(load_questions(WORLD / "questions.jsonl", split="test")[:8])


@pytest.fixture(scope="module")
def residuals(vlm, prompts):
    return measure(vlm, prompts, range(vlm.n_layers)).residuals


@pytest.mark.parametrize("layer", [0, 4, 5, 9])
def test_activations_are_those_of_sae_lens(layer, vlm, residuals):
    from sae_lens import JumpReLUSAE, JumpReLUSAEConfig

    ours = load_sae(locate_saes(WORLD / "saes")[layer], layer, vlm.d_model)
    theirs = JumpReLUSAE(JumpReLUSAEConfig(d_in=vlm.d_model, d_sae=ours.d_sae, apply_b_dec_to_input=False))
    theirs.load_state_dict(
        {
            "W_enc": ours.w_enc,
            "W_dec": ours.w_dec,
            "b_enc": ours.b_enc,
            "b_dec": ours.b_dec,
            "threshold": ours.threshold,
        }
    )
    x = residuals[:, layer]
    with torch.no_grad():
        expected = theirs.encode(x)
        torch.testing.assert_close(ours.encode(x), expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(ours.decode(expected), theirs.decode(expected), atol=1e-4, rtol=0)
    assert 5 < (expected > 0).sum(1).float().mean() < 64


def test_residuals_are_those_of_transformer_lens(vlm, prompts, residuals, monkeypatch):
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.model_bridge.generalized_components import NormalizationBridge

    def refuse(command, *args, **kwargs):
        raise AssertionError(f"something was installed at run time: {command}")

    monkeypatch.setattr(subprocess, "check_call", refuse)
    own = load_vlm(WORLD / "planted", "cpu", "float32")
    bridge = TransformerBridge.boot_transformers(
        str(WORLD / "planted"), hf_model=own.model, tokenizer=own.processor.tokenizer, device="cpu"
    )
    # transformer-lens 3.9 computes the vision tower's LayerNorm as the language model's RMSNorm; natively it is right.
    for module in own.model.model.vision_tower.modules():
        if isinstance(module, NormalizationBridge):
            module.use_native_layernorm_autograd = True
    for i in (0, 3, len(prompts) - 1):
        row = prompts.iloc[i]
        content = [{"type": "image", "image": open_image(row["image"])}, {"type": "text", "text": row["text"]}]
        inputs = own.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=True,
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        )
        with torch.no_grad():
            _, cache = bridge.run_with_cache(
                inputs["input_ids"], pixel_values=inputs["pixel_values"], token_type_ids=inputs["token_type_ids"]
            )
        theirs = torch.stack([cache[f"blocks.{layer}.hook_resid_post"][0, -1] for layer in range(own.n_layers)])
        torch.testing.assert_close(residuals[i], theirs, atol=1e-4, rtol=0)

"""The bridge to TransformerLens and sae-lens: the same weights and numbers, with working hooks and SAEs."""

import socket
import subprocess
from importlib import import_module

import pytest
import torch
from finetune_world import awaken

from interp.images.decode import NO_IMAGE, open_image
from interp.measurement.margins import measure
from interp.model.image_tokens import encode_images
from interp.model.lens_inputs import lens_inputs
from interp.model.load import load_vlm
from interp.model.prompts import PromptStyle
from interp.paths import WORLD
from interp.questions.files import load_questions
from interp.questions.tables import prompt_table
from interp.saes.locate import locate_saes
from interp.saes.sae import load_sae

LAYER, FEATURE = 5, 352


@pytest.fixture(scope="module")
def vlm():
    return load_vlm(WORLD / "planted", "cpu", "float32")


@pytest.fixture(scope="module")
def prompts():
    return prompt_table(load_questions(WORLD / "questions.jsonl", split="test")[:8])


@pytest.fixture(scope="module")
def residuals(vlm, prompts):
    return measure(vlm, prompts, range(vlm.n_layers)).residuals


@pytest.fixture(scope="module")
def bridge(vlm):
    # While it is imported, sae-lens asks git for a commit.
    import_module("sae_lens")

    def refuse(*args, **kwargs):
        raise AssertionError(f"a process or a connection was started: {args}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", refuse)
        patch.setattr(socket.socket, "connect", refuse)
        yield vlm.bridge()


@pytest.fixture(scope="module")
def sae(vlm):
    return load_sae(locate_saes(WORLD / "saes")[LAYER], LAYER, vlm.d_model)


@pytest.fixture
def with_sae(bridge, sae):
    theirs = sae.to_sae_lens()
    bridge.add_sae(theirs)
    yield bridge, bridge.get_sae_hook_name(theirs)
    bridge.reset_saes()


def inputs_of(vlm, row):
    return lens_inputs(vlm, row["image"], row["text"], row["closed"])


def resid_post(bridge, vlm, row):
    """Residuals [layers, d_model] at the final token, from TransformerLens."""
    with torch.no_grad():
        _, cache = bridge.run_with_cache(**inputs_of(vlm, row))
    return torch.stack([cache[f"blocks.{layer}.hook_resid_post"][0, -1] for layer in range(vlm.n_layers)])


def test_every_weight_shares_memory(vlm, bridge):
    ours = {weight.data_ptr() for weight in vlm.model.parameters()}
    theirs = {name: weight.data_ptr() for name, weight in bridge.named_parameters()}
    assert ours <= set(theirs.values())
    # The only weight that is not ours: Gemma has no such bias, and TransformerLens uses zeros instead.
    (extra,) = [name for name, place in theirs.items() if place not in ours]
    assert extra.endswith("lm_head._original_component.bias")


def test_residuals_equal_those_of_transformer_lens(vlm, bridge, prompts, residuals):
    for i in (0, 3, len(prompts) - 1):
        torch.testing.assert_close(residuals[i], resid_post(bridge, vlm, prompts.iloc[i]), atol=1e-4, rtol=0)


def test_the_model_still_measures_the_same(vlm, bridge, prompts, residuals):
    assert vlm.model.config._attn_implementation == "sdpa"
    assert torch.equal(measure(vlm, prompts, range(vlm.n_layers)).residuals, residuals)
    fresh = load_vlm(WORLD / "planted", "cpu", "float32")
    image = prompts["image"][0]
    for each in (vlm, fresh):
        each.image_tokens.clear()
        encode_images(each, [image])
    assert torch.equal(vlm.image_tokens[image], fresh.image_tokens[image])


def test_lora_layers_are_included(prompts):
    from finetune.lora.modules import add_lora

    own = load_vlm(WORLD / "planted", "cpu", "float32")
    row = prompts.iloc[0]
    before = measure(own, prompts.iloc[[0]], range(own.n_layers)).residuals[0]
    awaken(add_lora(own, [4, 5], 4, 8, 0.0, 0))
    ours = measure(own, prompts.iloc[[0]], range(own.n_layers)).residuals[0]
    assert (ours - before)[4:].abs().max() > 1
    torch.testing.assert_close(ours, resid_post(own.bridge(), own, row), atol=1e-4, rtol=0)


@pytest.mark.parametrize("style", [PromptStyle(), PromptStyle(False, "Be brief.", "Answer yes or no.")])
def test_inputs_equal_the_processors_own(vlm, prompts, style, monkeypatch):
    monkeypatch.setattr(vlm, "style", style)
    row = prompts.iloc[0]
    text = f"{row['text']} {style.answer_instruction}" if style.answer_instruction else row["text"]
    content = [{"type": "image", "image": open_image(row["image"])}, {"type": "text", "text": text}]
    messages = [{"role": "user", "content": content if style.image_first else content[::-1]}]
    if style.system:
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": style.system}]})
    expected = vlm.processor.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    inputs = inputs_of(vlm, row)
    assert torch.equal(inputs["input"], expected["input_ids"])
    assert torch.equal(inputs["token_type_ids"], expected["token_type_ids"])
    torch.testing.assert_close(inputs["pixel_values"], expected["pixel_values"])


def test_a_prompt_without_image_has_no_pixels(vlm):
    assert set(lens_inputs(vlm, NO_IMAGE, "Is there a nodule?")) == {"input", "token_type_ids"}


def test_an_sae_on_the_bridge_encodes_as_ours_and_reconstructs(vlm, with_sae, sae, prompts, residuals):
    bridge, name = with_sae
    with torch.no_grad():
        _, cache = bridge.run_with_cache(**inputs_of(vlm, prompts.iloc[0]))
    here = residuals[0, LAYER]
    activations = cache[name][0, -1]
    assert (activations > 0).sum() > 10
    torch.testing.assert_close(activations, sae.encode(here), atol=1e-4, rtol=0)
    entering_next = cache[f"blocks.{LAYER + 1}.hook_in"][0, -1]
    torch.testing.assert_close(entering_next, sae.decode(sae.encode(here)), atol=1e-4, rtol=0)


def test_the_matrices_of_an_sae_share_memory(sae):
    theirs = sae.to_sae_lens()
    assert theirs.W_enc.data_ptr() == sae.w_enc.data_ptr()
    assert theirs.W_dec.data_ptr() == sae.w_dec.data_ptr()
    assert theirs.cfg.metadata.hook_name == f"blocks.{LAYER}.hook_resid_post"


def test_hooks_on_the_sae_run_and_reset_takes_it_out(vlm, bridge, sae, prompts):
    inputs = inputs_of(vlm, prompts.iloc[0])
    theirs = sae.to_sae_lens()
    called = []

    def clamp(activations, hook):
        called.append(hook.name)
        activations[..., FEATURE] = 50.0
        return activations

    with torch.no_grad():
        free = bridge(**inputs)
        bridge.add_sae(theirs, use_error_term=True)
        name = bridge.get_sae_hook_name(theirs)
        torch.testing.assert_close(bridge(**inputs), free, atol=1e-4, rtol=0)
        held = bridge.run_with_hooks(**inputs, fwd_hooks=[(name, clamp)])
        bridge.reset_saes()
        assert called == [name]
        assert (held - free).abs().max() > 0.1
        assert torch.equal(bridge(**inputs), free)


@pytest.mark.parametrize("layer", [4, 5], ids=["before an SAE", "where an SAE was"])
def test_hooks_by_transformer_lens_names_are_called(layer, vlm, sae, prompts):
    bridge, seen = vlm.bridge(), []
    names = [f"blocks.{layer}.hook_resid_post", f"blocks.{layer}.hook_out"]

    def watch(x, hook):
        seen.append(hook.name)

    inputs = inputs_of(vlm, prompts.iloc[0])
    with torch.no_grad():
        bridge.run_with_cache_with_saes(**inputs, saes=[sae.to_sae_lens()])
        bridge.run_with_hooks(**inputs, fwd_hooks=[(name, watch) for name in names])
        _, cache = bridge.run_with_cache(**inputs, names_filter=names[0])
    assert len(seen) == 2
    torch.testing.assert_close(cache[names[0]], cache[names[1]])

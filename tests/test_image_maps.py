"""Saliency maps of packed wordings equal those of plain transformers on one prompt at a time."""

import numpy as np
import pytest
import torch
from finetune_world import plain_margin
from PIL import Image
from transformers.modeling_outputs import BaseModelOutputWithPooling

from interp.images.decode import BLANK_IMAGE, open_image
from interp.measurement import saliency
from interp.measurement.occlusion import image_pixels, pack_wordings, token_margins, variant_batches
from interp.measurement.saliency import (
    attention,
    feature_maps,
    gradient_maps,
    integrated_gradient_maps,
    observe_attention,
)
from interp.model.decoder import final_logits, run_packed
from interp.model.image_tokens import encode_pixels
from interp.model.load import load_vlm, quiet_loading
from interp.model.packing import attention_masks
from interp.model.prompts import DEFAULT_STYLE
from interp.runtime.memory import Memory
from interp.saes.sae import Sae

TEXTS = ["Is there a nodule?", "Any nodule here?", "Do you see it in this pic at all, or is it not there?"]
CLOSED = [True] * 3


@pytest.fixture(scope="module", params=[True, False], ids=["image first", "question first"])
def vlm(request, tiny_model):
    return load_vlm(tiny_model, "cpu", "float32", style=DEFAULT_STYLE._replace(image_first=request.param))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    file = tmp_path_factory.mktemp("maps") / "image.png"
    Image.fromarray(np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file)
    return str(file)


def tokens_of(vlm, path):
    with torch.no_grad():
        return encode_pixels(vlm.model, image_pixels(vlm, path)[None])[0]


def plain_inputs(vlm, path, text):
    content = [{"type": "image", "image": open_image(path)}, {"type": "text", "text": text}]
    return vlm.processor.apply_chat_template(
        [{"role": "user", "content": content if vlm.style.image_first else content[::-1]}],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )


def plain_attention(folder, vlm, path, text, dtype=torch.float32):
    """Attention [layers, heads, S, S] of one prompt in a model loaded as eager, and the columns of its image tokens."""
    from transformers import AutoModelForImageTextToText

    with quiet_loading():
        model = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()
    inputs = plain_inputs(vlm, path, text)
    inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
    with torch.no_grad():
        found = torch.cat(model(**inputs, output_attentions=True).attentions)
    return found.float(), (inputs["input_ids"][0] == model.config.image_token_id).nonzero()[:, 0]


def test_attention_and_rollout_equal_the_plain_models(vlm, tiny_model, path):
    found = attention(vlm, tokens_of(vlm, path), TEXTS, CLOSED)
    assert found.weights.shape == (3, 4, 4, 16)
    for k, text in enumerate(TEXTS):
        weights, places = plain_attention(tiny_model, vlm, path, text)
        torch.testing.assert_close(found.weights[k], weights[:, :, -1, places], atol=1e-5, rtol=1e-4)
        product = np.eye(weights.shape[-1])
        for layer in range(4):
            mean = sum(weights[layer, head].double().numpy() for head in range(4)) / 4
            product = (0.5 * mean + 0.5 * np.eye(len(mean))) @ product
            np.testing.assert_allclose(found.rollout[k, layer], product[-1, places.numpy()], atol=1e-5, rtol=1e-4)
    # The sliding window of this model ends inside or before the image; global layers attend to all of it.
    assert (found.weights[:, [0, 1, 3]] == 0).any()
    assert (found.weights[:, 2] > 0).all()


def test_attention_of_a_bfloat16_model(tiny_model, path):
    vlm = load_vlm(tiny_model, "cpu", "bfloat16")
    found = attention(vlm, tokens_of(vlm, path), TEXTS, CLOSED)
    for k, text in enumerate(TEXTS):
        weights, places = plain_attention(tiny_model, vlm, path, text, torch.bfloat16)
        expected = weights[:, :, -1, places]
        assert (found.weights[k] - expected).abs().max() < 0.03
        assert np.corrcoef(found.weights[k].ravel(), expected.ravel())[0, 1] > 0.995


def test_masked_positions_get_no_attention(vlm, path):
    tokens, seen = tokens_of(vlm, path), []
    ((batch, images),) = variant_batches(vlm, pack_wordings(vlm, TEXTS, CLOSED), tokens[None], 4096)
    with torch.no_grad(), observe_attention(vlm, seen.append):
        run_packed(vlm.model, batch, images)
    masks = attention_masks(batch, vlm.model.config.image_token_id, vlm.model.config.text_config.sliding_window)
    assert len(seen) == vlm.n_layers
    for weights, kind in zip(seen, vlm.model.config.text_config.layer_types, strict=True):
        assert (weights * ~masks[kind]).max() == 0
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))


def test_the_model_is_restored(vlm, path):
    tokens = tokens_of(vlm, path)
    before = token_margins(vlm, tokens[None], TEXTS, CLOSED)
    implementation = vlm.model.config.text_config._attn_implementation

    def fail(weights):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), observe_attention(vlm, fail):
        token_margins(vlm, tokens[None], TEXTS, CLOSED)
    assert vlm.model.config.text_config._attn_implementation == implementation != "eager"
    assert not any(layer.self_attn._forward_hooks or layer.self_attn._forward_pre_hooks for layer in vlm.layers)
    assert torch.equal(token_margins(vlm, tokens[None], TEXTS, CLOSED), before)


def plain_gradient(vlm, path, text, tokens, monkeypatch, target=None):
    """d target / d image tokens by autograd through the plain model with image tokens `tokens`; and target."""
    leaf = tokens.clone()[None].requires_grad_()
    features = BaseModelOutputWithPooling(pooler_output=leaf)
    monkeypatch.setattr(vlm.model.model, "get_image_features", lambda *given, **named: features)
    output = vlm.model(**plain_inputs(vlm, path, text), output_hidden_states=True)
    value = differentiable_margin(output.logits[0, -1], vlm) if target is None else target(output)
    (gradient,) = torch.autograd.grad(value, leaf)
    monkeypatch.undo()
    return gradient[0], float(value.detach())


def differentiable_margin(logits, vlm):
    vocabulary = vlm.processor.tokenizer.get_vocab()
    ids = {w: [i for t, i in vocabulary.items() if t.replace("▁", "").lower() == w] for w in ("yes", "no")}
    return torch.logsumexp(logits[ids["yes"]], 0) - torch.logsumexp(logits[ids["no"]], 0)


def test_gradient_maps_equal_plain_autograd(vlm, path, monkeypatch):
    tokens = tokens_of(vlm, path)
    found = gradient_maps(vlm, tokens, TEXTS, CLOSED)
    for k, text in enumerate(TEXTS):
        gradient, margin = plain_gradient(vlm, path, text, tokens, monkeypatch)
        with torch.no_grad():
            logits = vlm.model(**plain_inputs(vlm, path, text)).logits[0, -1]
        assert margin == pytest.approx(plain_margin(logits, vlm.processor.tokenizer), abs=1e-5)
        torch.testing.assert_close(found[k], (gradient * tokens).sum(-1), atol=1e-5, rtol=1e-3)


def test_integrated_gradients_equal_the_slow_sum_and_are_complete(vlm, path, monkeypatch):
    tokens, blank = tokens_of(vlm, path), tokens_of(vlm, BLANK_IMAGE)
    found = integrated_gradient_maps(vlm, tokens, blank, TEXTS[:2], CLOSED[:2], steps=4)
    for k, text in enumerate(TEXTS[:2]):
        total = torch.zeros_like(tokens)
        for share in (0.125, 0.375, 0.625, 0.875):
            at = blank + share * (tokens - blank)
            total += plain_gradient(vlm, path, text, at, monkeypatch)[0] / 4
        torch.testing.assert_close(found[k], (total * (tokens - blank)).sum(-1), atol=1e-5, rtol=1e-3)
    ends = token_margins(vlm, torch.stack([blank, tokens]), TEXTS, CLOSED)
    change = ends[1] - ends[0]
    errors = [
        (integrated_gradient_maps(vlm, tokens, blank, TEXTS, CLOSED, steps).sum(-1) - change).abs().max()
        for steps in (4, 64)
    ]
    assert errors[1] < 0.005 * change.abs().max()
    assert errors[1] < errors[0] / 20


def test_little_memory_gives_smaller_passes_and_the_same_maps(vlm, path, monkeypatch):
    tokens, blank, rows = tokens_of(vlm, path), tokens_of(vlm, BLANK_IMAGE), []

    def logits(model, batch, images):
        rows.append(len(batch.input_ids))
        return final_logits(model, batch, images)

    monkeypatch.setattr(saliency, "final_logits", logits)
    expected = integrated_gradient_maps(vlm, tokens, blank, TEXTS, CLOSED, steps=12)
    roomy = len(rows)
    monkeypatch.setattr("interp.model.room.memory_left", lambda *_: Memory(0, 0))
    torch.testing.assert_close(integrated_gradient_maps(vlm, tokens, blank, TEXTS, CLOSED, 12), expected)
    assert len(rows) - roomy > roomy
    assert sum(rows[:roomy]) == sum(rows[roomy:]) == 12 * len(TEXTS)


def test_feature_maps_equal_plain_autograd(vlm, path, monkeypatch):
    generator = torch.Generator().manual_seed(1)
    w_enc, b_enc = torch.randn(32, 8, generator=generator), torch.randn(8, generator=generator)
    sae = Sae(2, "random", w_enc, b_enc, w_enc.T, torch.zeros(32), torch.zeros(8))
    tokens = tokens_of(vlm, path)
    hooks = len(vlm.layers[2]._forward_hooks)
    found = feature_maps(vlm, tokens, sae, 5, TEXTS, CLOSED)
    assert len(vlm.layers[2]._forward_hooks) == hooks
    for k, text in enumerate(TEXTS):
        # hidden_states[0] is the embedding.
        gradient, _ = plain_gradient(
            vlm, path, text, tokens, monkeypatch, lambda o: o.hidden_states[3][0, -1] @ w_enc[:, 5] + b_enc[5]
        )
        torch.testing.assert_close(found[k], (gradient * tokens).sum(-1), atol=1e-4, rtol=1e-3)

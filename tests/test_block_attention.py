"""Attention by blocks and the last layer at final tokens: the same as PyTorch's attention with a mask of whole rows."""

import pytest
import torch
from random_weights import draw_norms
from torch.nn import functional as F

from interp.model import block_attention
from interp.model.attention import set_attention
from interp.model.block_attention import attend_blocks, attention_blocks
from interp.model.decoder import batch_masks, logits_from_layer, prompt_cache, run_last_layer, run_layers
from interp.model.packing import Row, attention_masks, collate, pack

IMAGE = 9
HEADS, KEY_HEADS, SIZE = 4, 2, 8


def packed(image_first=True):
    """Rows of several prompts after a shared prefix with an image, or rows of one prompt with the image inside."""
    before = [2, IMAGE, IMAGE, IMAGE, 3]
    images = [[[4], [5, 6, 7], [5, 8]], [[4, 5, 4, 5, 4, 5]], [[7, 7], [6, 5, 4, 3, 2, 10, 11]]]
    wordings = [(k, wording) for k, of_image in enumerate(images) for wording in of_image]
    tokens = [before + w if image_first else [2, *w, *before[1:]] for _, w in wordings]
    return pack([[*ids, 12] for ids in tokens], [k for k, _ in wordings], IMAGE)


@pytest.mark.parametrize("rows", [packed(), packed(image_first=False), [Row([0], [], [[2, 4, 12]])]])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("scores", [1, 200, 2**17])
def test_blocks_give_the_attention_of_a_mask(monkeypatch, rows, window, scores):
    monkeypatch.setattr(block_attention, "SCORES", scores)
    torch.manual_seed(0)
    batch = collate(rows, 0, multiple=5)
    b, s = batch.input_ids.shape
    query, key, value = (torch.randn(b, s, heads, SIZE).transpose(1, 2) for heads in (HEADS, KEY_HEADS, KEY_HEADS))
    masks = attention_masks(batch, IMAGE, window)
    blocks = attention_blocks(batch, IMAGE, window, HEADS, KEY_HEADS)
    assert blocks.keys() == masks.keys()
    kept = batch.segment >= 0
    assert not kept.all()
    for kind, mask in masks.items():
        expected = F.scaled_dot_product_attention(query, key, value, mask, scale=0.3, enable_gqa=True).transpose(1, 2)
        found = attend_blocks(query, key, value, blocks[kind], 0.3)
        torch.testing.assert_close(found[kept], expected[kept])
        assert found.isfinite().all()


def model():
    """A random model with layers of both kinds."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = {
        "vocab_size": 16, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "sliding_window": 4,
        "num_attention_heads": HEADS, "num_key_value_heads": KEY_HEADS, "head_dim": SIZE,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    }  # fmt: skip
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Gemma3Config(
        text_config=text, vision_config=tower | {"image_size": 28, "patch_size": 14}, image_token_id=IMAGE
    )
    torch.manual_seed(0)
    found = Gemma3ForConditionalGeneration(config).eval().requires_grad_(False)
    draw_norms(found)
    return found


@pytest.mark.parametrize("ours", [False, True])
@pytest.mark.parametrize("image_first", [True, False])
def test_the_last_layer_at_final_tokens(ours, image_first):
    whole = model()
    if ours:
        set_attention(whole)
    text = whole.model.language_model
    batch = collate(packed(image_first), 0)
    row, column = batch.final.unbind(1)
    trained = list(text.layers[-1].requires_grad_(True).parameters())
    states = torch.randn(*batch.input_ids.shape, 32, requires_grad=True)
    every, kept = prompt_cache(), prompt_cache()
    # All tokens pass the layer.
    masks = batch_masks(whole, batch)
    assert all(isinstance(mask, torch.Tensor) for mask in masks.values())
    expected = run_layers(whole, states, masks, batch.position_ids, 2, cache=SkippingCache(every))
    logits = whole.lm_head(text.norm(expected[row, column]))
    slope = torch.linspace(-1, 1, logits.numel()).view(logits.shape)
    gradients = torch.autograd.grad((logits * slope).sum(), [states, *trained])
    assert all(gradient.abs().max() > 1e-3 for gradient in gradients)
    # Also with more columns than there are prompts in any row.
    for given in (batch, batch._replace(most=batch.most + 3)):
        again = logits_from_layer(whole, given, states, 2)
        torch.testing.assert_close(again, logits)
        torch.testing.assert_close(torch.autograd.grad((again * slope).sum(), [states, *trained]), gradients)
    with torch.no_grad():
        torch.testing.assert_close(logits_from_layer(whole, batch, states, 2), logits)
        found = run_last_layer(whole, batch, states, SkippingCache(kept))
    torch.testing.assert_close(found[row, column], expected[row, column])
    torch.testing.assert_close(kept.layers[0].keys, every.layers[0].keys)
    torch.testing.assert_close(kept.layers[0].values, every.layers[0].values)


@pytest.mark.parametrize("gradients", [False, True])
def test_all_layers_and_then_the_last_at_final_tokens(gradients):
    whole, batch = model(), collate(packed(True), 0)
    states = torch.randn(*batch.input_ids.shape, 32)
    masks = batch_masks(whole, batch)
    expected = run_layers(whole, states, masks, batch.position_ids)[batch.final[:, 0], batch.final[:, 1]]
    lengths = []
    for layer in whole.model.language_model.layers:
        layer.mlp.register_forward_pre_hook(lambda module, inputs: lengths.append(inputs[0].shape[1]))
    with torch.set_grad_enabled(gradients):
        found = logits_from_layer(whole, batch, states)
    torch.testing.assert_close(found, whole.lm_head(whole.model.language_model.norm(expected)))
    assert lengths == [batch.input_ids.shape[1]] * 2 + [batch.most]


@pytest.mark.parametrize("gradients", [False, True])
def test_what_a_hook_adds_to_the_input_of_the_last_layer_reaches_its_keys_and_values(gradients):
    whole, batch = model(), collate(packed(True), 0)
    states, steering = torch.randn(*batch.input_ids.shape, 32), torch.randn(32)
    last = whole.model.language_model.layers[-1]
    last.register_forward_pre_hook(lambda module, inputs: (inputs[0] + steering, *inputs[1:]))
    masks = batch_masks(whole, batch)
    expected = run_layers(whole, states, masks, batch.position_ids)[batch.final[:, 0], batch.final[:, 1]]
    with torch.set_grad_enabled(gradients):
        found = logits_from_layer(whole, batch, states)
    torch.testing.assert_close(found, whole.lm_head(whole.model.language_model.norm(expected)))


def test_a_hook_of_the_last_layer_finds_all_tokens_where_they_are_in_the_batch():
    whole, batch = model(), collate(packed(True), 0)
    states, steering = torch.randn(*batch.input_ids.shape, 32), torch.randn(*batch.input_ids.shape, 32)
    text = whole.model.language_model
    masks = batch_masks(whole, batch)
    expected = (run_layers(whole, states, masks, batch.position_ids) + steering)[batch.final[:, 0], batch.final[:, 1]]
    text.layers[-1].register_forward_hook(lambda module, inputs, output: output + steering)
    with torch.no_grad():
        found = logits_from_layer(whole, batch, states)
    torch.testing.assert_close(found, whole.lm_head(text.norm(expected)))


class SkippingCache:
    """A cache of the last layer alone."""

    def __init__(self, cache):
        self.cache = cache

    def update(self, keys, values, layer, *_, **__):
        assert layer == 2
        return self.cache.update(keys, values, 0)

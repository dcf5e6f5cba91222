"""Models whose query heads share key heads: a single key head reaches kernels as copies, and nothing else changes."""

import pytest
import torch
from random_weights import save_random
from test_engine import plain_run
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from finetune.evaluation.plain_engine import load_plain_engine
from interp.images.decode import open_image
from interp.measurement.margins import measure
from interp.model.attention import IMPLEMENTATION, attend
from interp.model.load import load_vlm
from interp.model.prompts import answer_margin
from interp.model.spec import ModelSpec
from interp.questions.files import load_questions
from interp.questions.tables import prompt_table


def random_model(folder, key_heads):
    """A random model with four query heads."""
    from interp.demo.model import build_model, train_tokenizer
    from interp.demo.phrasings import all_texts
    from interp.demo.sample_cases import ANSWERS

    tokenizer = train_tokenizer(all_texts(), ANSWERS)
    model = build_model(tokenizer, 64, layers=3, width=32, seed=0)
    kind, config = type(model), model.config
    config.text_config.num_attention_heads, config.text_config.num_key_value_heads = 4, key_heads
    torch.manual_seed(0)
    model = kind(config)
    return save_random(model, tokenizer, folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random model with four query heads and one key head."""
    return random_model(tmp_path_factory.mktemp("single") / "model", 1)


def test_margins_equal_transformers_own_attention(folder, own_data, monkeypatch):
    vlm = load_vlm(folder, "cpu", "float32")
    prompts = prompt_table(load_questions(own_data / "questions.jsonl")).iloc[:9]
    own = torch.nn.functional.scaled_dot_product_attention
    strides = []

    def watched(query, key, value, **options):
        strides.append((key.shape[1], key.stride(1), value.stride(1)))
        return own(query, key, value, **options)

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
        measured = measure(vlm, prompts)
    decoder = [entry for entry in strides if entry[0] == 4]
    assert len(decoder) >= 3
    assert all(key and value for _, key, value in decoder), "a head is repeated as a view"
    vlm.model.model.language_model.set_attn_implementation("sdpa")
    for i, row in prompts.iterrows():
        logits, _ = plain_run(vlm, open_image(row["image"]), row["text"])
        assert measured.margin[i] == pytest.approx(float(answer_margin(logits, vlm.answers)), abs=1e-5)


def test_heads_that_are_not_shared_attend_as_in_transformers():
    query, key, value = torch.randn(3, 2, 4, 5, 8)
    mask = torch.ones(5, 5, dtype=torch.bool).tril()[None, None]
    module = torch.nn.Module()
    module.is_causal, module.num_key_value_groups = True, 1
    found, _ = attend(module, query, key, value, mask, scaling=0.5)
    assert torch.equal(found, sdpa_attention_forward(module, query, key, value, mask, scaling=0.5)[0])


def test_plain_generation_gets_copies_too(folder, own_data):
    prompts = prompt_table(load_questions(own_data / "questions.jsonl")).iloc[:5]
    engine = load_plain_engine(folder, ModelSpec(device="cpu", dtype="float32"), batch_size=3)
    assert engine.model.model.language_model.config._attn_implementation == IMPLEMENTATION
    found = engine.first_tokens(prompts, "prompts").margin
    engine.model.model.language_model.set_attn_implementation("eager")
    assert found == pytest.approx(engine.first_tokens(prompts, "prompts").margin, abs=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("keys", [33, 97, 129, 130])
@pytest.mark.parametrize("key_heads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_reads_every_number_of_keys_right(keys, key_heads, dtype):
    generator = torch.Generator("cuda").manual_seed(0)
    query, key, value = (
        torch.randn(1, heads, keys, 256, generator=generator, device="cuda").to(dtype)
        for heads in (4, key_heads, key_heads)
    )
    mask = torch.ones(keys, keys, dtype=torch.bool, device="cuda").tril()[None, None]
    module = torch.nn.Module()
    module.is_causal, module.num_key_value_groups = True, 4 // key_heads
    found, _ = attend(module, query, key, value, mask, scaling=1.0)
    key, value = (each.repeat_interleave(4 // key_heads, 1) for each in (key, value))
    weights = (query.double() @ key.double().transpose(2, 3)).masked_fill(~mask, float("-inf")).softmax(-1)
    expected = (weights @ value.double()).transpose(1, 2)
    assert (found.double() - expected).abs().max() < (1e-4 if dtype == torch.float32 else 5e-2)

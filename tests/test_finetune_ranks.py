"""The rank, the scaling and the target modules of an adapter, as plain peft saves and loads them."""

import json
import re
from collections import Counter

import pytest
import torch
from finetune_world import awaken, make_world, plain_logits

from finetune.lora.modules import add_lora, lora_config, parameters_per_rank, target_pattern, trainable_parameters
from interp.model.load import load_vlm
from interp.questions.files import load_questions


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("ranks") / "world", patients=2)


def test_an_adapter_is_configured_with_one_rank_and_no_patterns():
    config = lora_config([5, 4], 16, 32, 0.1)
    assert (config.r, config.lora_alpha, config.lora_dropout) == (16, 32, 0.1)
    assert (config.rank_pattern, config.alpha_pattern) == ({}, {})
    assert config.target_modules == target_pattern([4, 5])


def test_rank_and_scaling_survive_plain_peft(world, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    vlm = load_vlm(world.model, "cpu", "float32")
    adapted = add_lora(vlm, [0, 2], 4, 6, 0.0)
    awaken(adapted)
    found = Counter()
    for name, p in adapted.named_parameters():
        if "lora_A" in name:
            *_, layer, path, _, _, _, _ = name.split(".")
            found[int(layer), path, p.shape[0]] += 1
    assert found == {(layer, path, 4): n for layer in (0, 2) for path, n in (("self_attn", 4), ("mlp", 3))}
    scalings = {m.scaling["default"] for m in adapted.modules() if isinstance(getattr(m, "scaling", None), dict)}
    assert scalings == {1.5}, "alpha / rank"
    adapted.save_pretrained(str(tmp_path))
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (saved["r"], saved["lora_alpha"]) == (4, 6)
    question = load_questions(world.questions)[0]
    expected = plain_logits(vlm.model, vlm.processor, question.image, question.question)
    again = AutoModelForImageTextToText.from_pretrained(world.model, dtype=torch.float32)
    per_rank = parameters_per_rank(again)
    plain = plain_logits(again, vlm.processor, question.image, question.question)
    loaded = PeftModel.from_pretrained(again, tmp_path)
    assert trainable_parameters(adapted) == 4 * (per_rank[0] + per_rank[2])
    # Our kernels round otherwise than transformers' own code.
    again = plain_logits(loaded, vlm.processor, question.image, question.question)
    torch.testing.assert_close(again, expected, rtol=0, atol=2e-6)
    assert (plain - expected).abs().max() > 1e-3


def test_the_pattern_names_the_projections_of_its_layers_only():
    pattern = re.compile(target_pattern([11, 2]))
    names = [
        f"model.language_model.layers.{layer}.{path}"
        for layer in (1, 2, 11, 12)
        for path in ("self_attn.q_proj", "mlp.up_proj", "self_attn.q_norm", "mlp.act_fn")
    ]
    found = [name.removeprefix("model.language_model.layers.") for name in names if pattern.fullmatch(name)]
    assert found == ["2.self_attn.q_proj", "2.mlp.up_proj", "11.self_attn.q_proj", "11.mlp.up_proj"]

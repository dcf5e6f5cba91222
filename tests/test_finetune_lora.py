import re

import pytest
import torch
from finetune_world import make_world, plain_logits

from finetune.lora import add_lora, set_dropout, target_pattern, trainable_parameters
from interp.errors import InputError
from interp.questions import load_questions
from interp.vlm import Vlm, load_vlm


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("lora") / "world", patients=2)


@pytest.fixture(scope="module")
def medgemma_4b():
    """The real shapes without the weights."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3TextConfig, SiglipVisionConfig

    text = Gemma3TextConfig(
        vocab_size=262208,
        hidden_size=2560,
        intermediate_size=10240,
        num_hidden_layers=34,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=256,
    )
    vision = SiglipVisionConfig(
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=27,
        num_attention_heads=16,
        image_size=896,
        patch_size=14,
        vision_use_head=False,
    )
    with torch.device("meta"):
        model = Gemma3ForConditionalGeneration(
            Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=256)
        )
    return Vlm(model.requires_grad_(False), None, "google/medgemma-4b-it", None, None)


@pytest.mark.parametrize(("layers", "count"), [(range(15, 20), 4_382_720), (range(34), 29_802_496)])
def test_parameter_count_on_the_real_4b_shapes(medgemma_4b, layers, count):
    adapted = add_lora(medgemma_4b, list(layers), rank=16)
    names = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert trainable_parameters(adapted) == count
    assert all("language_model" in name and "lora_" in name for name in names)
    assert {int(re.search(r"layers\.(\d+)\.", name).group(1)) for name in names} == set(layers)
    adapted.unload()


def test_bare_layer_numbers_would_adapt_the_vision_tower(medgemma_4b):
    """The trap that the full path avoids."""
    names = [name for name, _ in medgemma_4b.model.named_modules()]
    assert any(re.search(r"vision_tower.*layers\.15\..*q_proj", name) for name in names)
    chosen = [name for name in names if re.fullmatch(target_pattern(range(15, 20)), name)]
    assert len(chosen) == 5 * 7
    assert all(name.startswith("model.language_model.") for name in chosen)


def test_layer_1_is_not_layer_11_or_21(medgemma_4b):
    names = [name for name, _ in medgemma_4b.model.named_modules()]
    chosen = {name.split(".")[3] for name in names if re.fullmatch(target_pattern([1]), name)}
    assert chosen == {"1"}


def test_an_untrained_adapter_changes_nothing(world):
    vlm = load_vlm(world.model, "cpu")
    question = load_questions(world.questions)[0]
    before = plain_logits(vlm.model, vlm.processor, question.image, question.question)
    add_lora(vlm, [0, 2])
    after = plain_logits(vlm.model, vlm.processor, question.image, question.question)
    assert torch.equal(before, after)


def test_adapter_is_float32_and_base_is_frozen_in_bfloat16(world):
    vlm = load_vlm(world.model, "cpu", "bfloat16")
    adapted = add_lora(vlm, [1])
    for name, parameter in adapted.named_parameters():
        assert parameter.requires_grad == ("lora_" in name), name
        assert parameter.dtype == (torch.float32 if "lora_" in name else torch.bfloat16), name


def test_same_seed_same_start(world):
    first, second, other = (
        torch.cat(
            [
                p.flatten()
                for n, p in add_lora(load_vlm(world.model, "cpu"), [1], seed=s).named_parameters()
                if "lora_A" in n
            ]
        )
        for s in (4, 4, 5)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_dropout_trains_in_the_adapter_alone(world):
    adapted = add_lora(load_vlm(world.model, "cpu"), [1], dropout=0.5)
    set_dropout(adapted, True)
    training = [name for name, module in adapted.named_modules() if module.training]
    assert training
    assert all("lora_dropout" in name for name in training)
    set_dropout(adapted, False)
    assert not any(module.training for module in adapted.modules())


@pytest.mark.parametrize("layers", [[3], [0, 7], [-1], []])
def test_absent_layers_are_refused(world, layers):
    with pytest.raises(InputError, match="layer"):
        add_lora(load_vlm(world.model, "cpu"), layers)

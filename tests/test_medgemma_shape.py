"""finetune on a model of MedGemma 4B's true shapes, on the meta device."""

import re

import pytest
from medgemma import IMAGE_TOKENS, TEXT, VISION, medgemma_config, meta_medgemma

from finetune.lora.modules import add_lora, target_pattern, trainable_parameters
from interp.model.vlm import Vlm

PUBLISHED_PARAMETERS = 4_300_079_472
"""Number of parameters on the hub of google/gemma-3-4b-it and google/medgemma-4b-it, with tied embeddings once."""


@pytest.fixture(scope="module")
def medgemma():
    return Vlm(meta_medgemma(), None, "google/medgemma-4b-it", None, None)


def test_the_configuration_reads_as_the_published_file_does():
    """google/gemma-3-4b-it's own config.json, which leaves most fields to defaults."""
    from transformers import Gemma3Config

    published = Gemma3Config.from_dict(
        {
            "boi_token_index": 255999,
            "eoi_token_index": 256000,
            "image_token_index": 262144,
            "mm_tokens_per_image": 256,
            "text_config": {
                "hidden_size": 2560,
                "intermediate_size": 10240,
                "model_type": "gemma3_text",
                "num_hidden_layers": 34,
                "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                "sliding_window": 1024,
            },
            "vision_config": {
                "hidden_size": 1152,
                "image_size": 896,
                "intermediate_size": 4304,
                "model_type": "siglip_vision_model",
                "num_attention_heads": 16,
                "num_hidden_layers": 27,
                "patch_size": 14,
                "vision_use_head": False,
            },
        }
    )
    assert medgemma_config().to_dict() == published.to_dict()


def test_the_number_of_parameters_is_the_published_one(medgemma):
    assert sum(p.numel() for p in medgemma.model.parameters()) == PUBLISHED_PARAMETERS == _by_hand()


def _by_hand() -> int:
    """The number also follows from the configuration, without transformers."""
    d, mlp, head = TEXT["hidden_size"], TEXT["intermediate_size"], TEXT["head_dim"]
    queries, keys = TEXT["num_attention_heads"] * head, TEXT["num_key_value_heads"] * head
    layer = d * (2 * queries + 2 * keys) + 3 * d * mlp + 4 * d + 2 * head  # four norms, and two of queries and keys
    text = TEXT["vocab_size"] * d + TEXT["num_hidden_layers"] * layer + d
    v, wide, patch = VISION["hidden_size"], VISION["intermediate_size"], VISION["patch_size"]
    block = 4 * (v * v + v) + (v * wide + wide) + (wide * v + v) + 4 * v
    patches = (VISION["image_size"] // patch) ** 2
    tower = (3 * patch**2 * v + v) + patches * v + VISION["num_hidden_layers"] * block + 2 * v
    return text + tower + v * d + v


@pytest.mark.parametrize(("layers", "count"), [(range(15, 20), 4_382_720), (range(34), 29_802_496)])
def test_the_adapter_has_the_published_size_and_spares_the_image_side(medgemma, layers, count):
    adapted = add_lora(medgemma, list(layers), rank=16)
    try:
        trained = [name for name, p in adapted.named_parameters() if p.requires_grad]
        assert trainable_parameters(adapted) == count
        assert all(".language_model.layers." in name and "lora_" in name for name in trained)
        assert not any("vision_tower" in name or "multi_modal_projector" in name for name in trained)
        assert {int(re.search(r"layers\.(\d+)\.", name).group(1)) for name in trained} == set(layers)
        assert len(trained) == 2 * 7 * len(layers)
    finally:
        adapted.unload()


def test_an_adapter_of_another_rank_grows_in_proportion(medgemma):
    adapted = add_lora(medgemma, [33], rank=4)
    try:
        assert trainable_parameters(adapted) * 34 * 4 == 29_802_496
    finally:
        adapted.unload()


def test_bare_layer_numbers_would_adapt_the_vision_tower(medgemma):
    """The full module path avoids this trap."""
    names = [name for name, _ in medgemma.model.named_modules()]
    assert any(re.search(r"vision_tower.*layers\.15\..*q_proj", name) for name in names)
    chosen = [name for name in names if re.fullmatch(target_pattern(range(15, 20)), name)]
    assert len(chosen) == 5 * 7
    assert all(name.startswith("model.language_model.") for name in chosen)


def test_layer_1_is_not_layer_11_or_21(medgemma):
    names = [name for name, _ in medgemma.model.named_modules()]
    chosen = {name.split(".")[3] for name in names if re.fullmatch(target_pattern([1]), name)}
    assert chosen == {"1"}


def test_an_image_becomes_256_tokens(medgemma):
    side = VISION["image_size"] // VISION["patch_size"]
    pool = medgemma.model.model.multi_modal_projector.kernel_size
    assert (side // pool) ** 2 == IMAGE_TOKENS

"""The shapes of MedGemma 4B without its weights, for tests and benchmarks."""

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

# The architecture of google/gemma-3-4b-it, which MedGemma 4B shares. Fields that its config.json leaves to the defaults
# of transformers are spelled out, so that a changed default cannot go unnoticed.
TEXT: dict[str, Any] = {
    "vocab_size": 262208,
    "hidden_size": 2560,
    "intermediate_size": 10240,
    "num_hidden_layers": 34,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window": 1024,
    # Every sixth layer attends globally and scales its positions eightfold; the others attend to a window.
    "layer_types": ["full_attention" if layer % 6 == 5 else "sliding_attention" for layer in range(34)],
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
    },
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
}
# The fields in which google/gemma-3-27b-it, the base of MedGemma 27B, differs.
LARGE: dict[str, Any] = {
    "hidden_size": 5376,
    "intermediate_size": 21504,
    "num_hidden_layers": 62,
    "num_attention_heads": 32,
    "num_key_value_heads": 16,
    "head_dim": 128,
    "query_pre_attn_scalar": 168,
    "layer_types": ["full_attention" if layer % 6 == 5 else "sliding_attention" for layer in range(62)],
}
VISION: dict[str, Any] = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 896,
    "patch_size": 14,
    "vision_use_head": False,
}
IMAGE_TOKENS = 256


def medgemma_config(large: bool = False) -> "Gemma3Config":
    """The configuration of MedGemma 4B, or with `large` of MedGemma 27B."""
    from transformers import Gemma3Config, Gemma3TextConfig, SiglipVisionConfig

    return Gemma3Config(
        text_config=Gemma3TextConfig(**(TEXT | LARGE if large else TEXT)),
        vision_config=SiglipVisionConfig(**VISION),
        mm_tokens_per_image=IMAGE_TOKENS,
        boi_token_index=255999,
        eoi_token_index=256000,
        image_token_index=262144,
        tie_word_embeddings=True,
    )


def meta_medgemma() -> "Gemma3ForConditionalGeneration":
    """MedGemma 4B on the meta device, with all shapes but no memory, and frozen like a model of `load_vlm`."""
    from transformers import Gemma3ForConditionalGeneration

    with torch.device("meta"):
        return Gemma3ForConditionalGeneration(medgemma_config()).requires_grad_(False).eval()

"""The embedded model: Gemma 3's own classes, processor and chat template at a size that a laptop can train."""

import json
from collections.abc import Iterable
from typing import Any

import torch

CHAT_TEMPLATE = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '\n\n' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}
                {{ '<start_of_image>' }}
            {%- elif item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<start_of_turn>model\n' }}
{%- endif -%}
"""

SPECIAL_TOKENS = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"]
IMAGE_TOKENS = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
IMAGE_SEQUENCE = 16
VOCABULARY = 1024


def train_tokenizer(texts: Iterable[str], words: Iterable[str]) -> Any:
    """A BPE tokenizer with byte fallback in Gemma's own class, trained on `texts`. Each of `words` is one token."""
    from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import GemmaTokenizer

    specials = [*SPECIAL_TOKENS, *IMAGE_TOKENS.values()]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=1,
        special_tokens=[*specials, *(f"<0x{byte:02X}>" for byte in range(256))],
        initial_alphabet=[*map(chr, range(33, 127)), "▁", "\n"],
        show_progress=False,
    )
    raw = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    raw.normalizer = normalizers.Replace(" ", "▁")
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("▁", "merged_with_next"),
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.Punctuation(),
        ]
    )
    corpus = [f"user\n{t}\nmodel\n" for t in texts]
    corpus += [form for word in words for form in (word, word.capitalize(), f" {word}") for _ in range(500)]
    raw.train_from_iterator(corpus, trainer)
    trained = json.loads(raw.to_str())["model"]
    merges: Any = [tuple(m) for m in trained["merges"]]
    tokenizer = GemmaTokenizer(
        vocab=trained["vocab"],
        merges=merges,
        extra_special_tokens=IMAGE_TOKENS,
        model_max_length=2048,
    )
    tokenizer.add_tokens([AddedToken(token, special=True) for token in ("<start_of_turn>", "<end_of_turn>")])
    return tokenizer


def build_processor(tokenizer: Any, image_size: int) -> Any:
    """Gemma 3's processor for square images of `image_size` x `image_size` pixels."""
    from transformers import Gemma3ImageProcessor, Gemma3Processor

    image_processor = Gemma3ImageProcessor(
        size={"height": image_size, "width": image_size}, image_mean=[0.5] * 3, image_std=[0.5] * 3, do_convert_rgb=True
    )
    return Gemma3Processor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        chat_template=CHAT_TEMPLATE,
        image_seq_length=IMAGE_SEQUENCE,
    )


def build_model(tokenizer: Any, image_size: int, layers: int, width: int, seed: int) -> Any:
    """A `Gemma3ForConditionalGeneration` with random weights and `layers` layers of `width`, every third one global."""
    from transformers import Gemma3TextConfig

    text: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": width // 4,
        "query_pre_attn_scalar": width // 4,
        "sliding_window": 512,
        "sliding_window_pattern": 3,
        "max_position_embeddings": 2048,
        "initializer_range": 0.04,
    }
    return assemble_model(Gemma3TextConfig(**text), tokenizer, image_size, seed)


def assemble_model(text_config: Any, tokenizer: Any, image_size: int, seed: int) -> Any:
    """A `Gemma3ForConditionalGeneration` with random weights: this language model after a small vision tower."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, SiglipVisionConfig

    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in IMAGE_TOKENS.items()}
    vision = SiglipVisionConfig(
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=image_size,
        patch_size=8,
        vision_use_head=False,
    )
    end_tokens: Any = {"eos_token_id": [1, tokenizer.convert_tokens_to_ids("<end_of_turn>")]}
    config = Gemma3Config(
        text_config=text_config,
        vision_config=vision,
        mm_tokens_per_image=IMAGE_SEQUENCE,
        boi_token_index=ids["boi_token"],
        eoi_token_index=ids["eoi_token"],
        image_token_index=ids["image_token"],
        **end_tokens,
    )
    torch.manual_seed(seed)
    model = Gemma3ForConditionalGeneration(config)
    # transformers initializes the projection to zero, which would pass no image signal and no gradient.
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.1)
    return model

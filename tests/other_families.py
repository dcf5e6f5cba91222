"""Tiny models of other families than Gemma 3, with random weights, as transformers saves them."""

from pathlib import Path
from typing import Any

import torch
from finetune_world import ANSWERS, UNSEEN, WORDINGS
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' }}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ IMAGE }}{% else %}{{ ' ' + part['text'] + ' ' }}{% endif %}{% endfor %}"
    "{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)


def tokenizer_of(special: dict[str, str]) -> Any:
    """A tokenizer of whole words that knows the tiny world's wordings, with these special tokens."""
    texts = [text for bank in (WORDINGS, UNSEEN) for words in bank.values() for text in words]
    pieces = {piece for text in [*texts, "user assistant system : normal clear"] for piece in split(text)}
    words = ["<pad>", "<unk>", "<s>", "</s>", *special.values(), *sorted(pieces | {*ANSWERS, "Yes", "No"})]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(dict.fromkeys(words))}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=list(special.values()),
    )


def split(text: str) -> list[str]:
    """The pieces that the tokenizer makes of a text."""
    return [piece for piece, _ in pre_tokenizers.BertPreTokenizer().pre_tokenize_str(text)]


def random_weights(model: Any) -> Any:
    """Give the model weights that tell its inputs apart."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def saved(model: Any, processor: Any, folder: Path) -> Path:
    """Save the model with random weights beside its processor."""
    random_weights(model).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
"""The CLIP tower of both LLaVAs."""
KEPT = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
)
"""What the language models of all families here have in common."""


def llama(tokenizer: Any) -> Any:
    """The configuration of a Llama of two layers."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def llava(folder: Path) -> Path:
    """A LLaVA: a CLIP tower and a Llama."""
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    tokenizer = tokenizer_of({"image_token": "<image>"})
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**TOWER),
        text_config=llama(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    pictures = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = LlavaProcessor(
        pictures,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=TEMPLATE.replace("IMAGE", "'<image>'"),
        num_additional_image_tokens=1,
    )
    return saved(LlavaForConditionalGeneration(config), processor, folder)


def llava_next(folder: Path) -> Path:
    """A LLaVA-NeXT, which divides pictures into tiles by their shape."""
    from transformers import (
        CLIPVisionConfig,
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextImageProcessor,
        LlavaNextProcessor,
    )

    tokenizer = tokenizer_of({"image_token": "<image>"})
    pinpoints = [[32, 64], [64, 32], [64, 64]]
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**TOWER),
        text_config=llama(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=pinpoints,
    )
    pictures = LlavaNextImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_grid_pinpoints=pinpoints
    )
    processor = LlavaNextProcessor(
        pictures,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=TEMPLATE.replace("IMAGE", "'<image>'"),
        num_additional_image_tokens=1,
    )
    return saved(LlavaNextForConditionalGeneration(config), processor, folder)


def qwen2_vl() -> tuple[Any, Any]:
    """A Qwen2-VL and its processor in memory; its pictures keep their shape, and pixels are a list of patches.

    Its video processor needs torchvision, so it is left out, and `AutoProcessor` could not load the rest.
    """
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLImageProcessor, Qwen2VLProcessor

    class PicturesOnly(Qwen2VLProcessor):
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            return None if argument is None else super().check_argument_for_proper_class(argument_name, argument)

    marks = {"start": "<|vision_start|>", "end": "<|vision_end|>", "image": "<|image_pad|>", "video": "<|video_pad|>"}
    tokenizer = tokenizer_of(marks)
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in marks.items()}
    text = {name: value for name, value in llama(tokenizer).to_dict().items() if name in KEPT}
    config = Qwen2VLConfig(
        text_config=text | {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}},
        vision_config={"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "patch_size": 14},
        image_token_id=ids["image"],
        video_token_id=ids["video"],
        vision_start_token_id=ids["start"],
        vision_end_token_id=ids["end"],
    )
    template = TEMPLATE.replace("IMAGE", f"'{marks['start']}{marks['image']}{marks['end']}'")
    pictures = Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=4 * 28 * 28)
    model = random_weights(Qwen2VLForConditionalGeneration(config))
    # Random weights sometimes answer with the image token, which a plain forward takes for an image.
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, *ids.values()]
    return model, PicturesOnly(pictures, tokenizer, None, chat_template=template)

"""Checking that template, tokenizer, image processor and model of one folder fit together, with one dummy prompt.

A misfit gives numbers all the same: a template that leaves the image out, or a tokenizer that cuts words into letters.
"""

from typing import Any

import torch

from interp.model.prompts import DEFAULT_STYLE, AnswerTokens, PromptStyle, chat_messages, prompt_tokens
from interp.runtime.errors import InputError

QUESTION = "Is there evidence of pneumonia in the left lung?"
LARGEST_PIXEL = 20.0
"""Bound on normalized pixels; Gemma 3's are within [-1, 1], and those that were never scaled reach 255 and more."""
MOST_TOKENS_PER_LETTER = 0.8
"""Most tokens per letter of an English sentence; a tokenizer that has lost its merges has one or more."""
LEAST_WINDOW = 2
"""Least sliding window: causal sweeps need a token before the final one that it sees (`interp.model.edited_attention`),
and with a window of 1 it would see itself alone."""


def check_inputs(model: Any, processor: Any, answers: AnswerTokens, style: PromptStyle = DEFAULT_STYLE) -> None:
    """Raise InputError unless prompts and images as the processor prepares them are those that the model takes.

    Local layers see more than one token; every token has an embedding; model and tokenizer agree about the image token;
    a prompt with an image holds as many image tokens as the projector gives, and all its words; the pixels have the
    size and the scale of the vision tower; and the tokens are those of transformers' own `processor(...)`.
    """
    _check_window(model.config.text_config.sliding_window)
    _check_vocabulary(model, processor.tokenizer)
    _check_words(processor.tokenizer, answers)
    _check_image_token(model, processor)
    for asked in dict.fromkeys((DEFAULT_STYLE, style)):
        prompt_tokens(processor, [QUESTION] * 2, [True, True], asked, [True, False])
    expected, given = image_token_count(model), processor.image_seq_length
    if expected != model.config.mm_tokens_per_image or expected != given:
        raise InputError(
            f"processor_config.json: found image_seq_length {given}, and config.json: mm_tokens_per_image "
            f"{model.config.mm_tokens_per_image}; expected {expected} for both, because the projector gives so many "
            "tokens for an image. Correct them, or copy both files from the base model."
        )
    _check_against_transformers(model, processor, style)


def image_token_count(model: Any) -> int:
    """How many tokens the projector makes of one image, by running it on zeros."""
    vision, projector = model.config.vision_config, model.model.multi_modal_projector
    weight = projector.mm_input_projection_weight
    patches = (vision.image_size // vision.patch_size) ** 2
    with torch.no_grad():
        return projector(weight.new_zeros(1, patches, vision.hidden_size)).shape[1]


def _check_window(window: int | None) -> None:
    """Raise InputError if the sliding window of local layers hides all other tokens; None hides none."""
    if window is not None and window < LEAST_WINDOW:
        raise InputError(
            f"config.json: found sliding_window {window}, expected at least {LEAST_WINDOW}: with less, a token of a "
            "local layer sees no token before it. Take the number from the base model (google/medgemma-4b-it: 1024)."
        )


def _check_vocabulary(model: Any, tokenizer: Any) -> None:
    """Raise InputError if a token has no row in the embeddings."""
    rows = len(model.get_input_embeddings().weight)
    added = {index: str(token) for index, token in tokenizer.added_tokens_decoder.items() if index >= rows}
    count = max(len(tokenizer), 1 + max(added, default=0))
    if count > rows:
        named = f", among them {added[min(added)]!r}" if added else ""
        raise InputError(
            f"tokenizer.json: found {count} tokens, but the model has {rows} embeddings, so that {count - rows} tokens "
            f"have none{named}. Call resize_token_embeddings before saving the model, or take the base's tokenizer."
        )


def _check_words(tokenizer: Any, answers: AnswerTokens) -> None:
    """Raise InputError if the tokenizer cuts words that its vocabulary has into pieces."""
    ids = tokenizer(QUESTION, add_special_tokens=False)["input_ids"]
    cut = [] if len(ids) <= MOST_TOKENS_PER_LETTER * len(QUESTION) else [QUESTION]
    for word, known in zip(("yes", "no"), answers, strict=True):
        spelt = [tokenizer(form, add_special_tokens=False)["input_ids"] for form in (word, word.capitalize())]
        if not any(len(found) == 1 and found[0] in known for found in spelt):
            cut.append(word)
    if cut:
        pieces = tokenizer.convert_ids_to_tokens(tokenizer(cut[0], add_special_tokens=False)["input_ids"])
        raise InputError(
            f"tokenizer.json: cuts {cut[0]!r} into {len(pieces)} tokens ({', '.join(map(repr, pieces[:4]))}, ...), "
            "although words are in its vocabulary. Its merges were lost; copy tokenizer.json from the base model."
        )


def _check_image_token(model: Any, processor: Any) -> None:
    """Raise InputError unless model and tokenizer mean the same token by an image token."""
    expected, tokenizer = model.config.image_token_id, processor.tokenizer
    if tokenizer.image_token_id != expected:
        named = tokenizer.convert_ids_to_tokens(expected)
        raise InputError(
            f"config.json: found image_token_id {expected}, which is {named!r}, but the tokenizer's image token "
            f"{tokenizer.image_token!r} is {tokenizer.image_token_id}. Copy both from the "
            "same model."
        )


def _check_against_transformers(model: Any, processor: Any, style: PromptStyle) -> None:
    """Raise InputError unless pixels and tokens are those of the processor's own call, and fit the vision tower."""
    from PIL import Image

    # So wide that a processor which crops such images would crop this one.
    image = Image.linear_gradient("L").resize((1200, 512)).convert("RGB")
    messages = chat_messages(QUESTION, True, True, style)
    for message in messages:
        for part in message["content"]:
            if part["type"] == "image":
                part["image"] = image
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
    theirs = processor.apply_chat_template(messages, **options)
    pixels, size = theirs["pixel_values"], model.config.vision_config.image_size
    if tuple(pixels.shape) != (1, 3, size, size):
        raise InputError(
            f"The processor makes pixels of shape {list(pixels.shape)} from an image, but the vision tower takes "
            f"[1, 3, {size}, {size}]. Correct size in the processor's configuration, or copy it "
            "from the base model."
        )
    low, high = float(pixels.min()), float(pixels.max())
    if not -LARGEST_PIXEL < low < high < LARGEST_PIXEL:
        raise InputError(
            f"The processor makes pixels from {low:g} to {high:g}, expected about -1 to 1. Correct do_rescale, "
            "do_normalize, image_mean and image_std in its configuration, or copy it from the base model."
        )
    ours = prompt_tokens(processor, [QUESTION], [True], style)[0]
    if theirs["input_ids"][0].tolist() != ours:
        raise InputError(
            "The chat template and the processor give other tokens for an image than this program. Copy the chat "
            "template and the processor's configuration from the base model."
        )

"""From a question to token ids, through the processor's own chat template; and the tokens that mean yes or no."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from interp.runtime.async_copies import to_device_async
from interp.runtime.errors import InputError


class AnswerTokens(NamedTuple):
    """Token ids that count as each closed answer, whatever their case or leading space."""

    yes: Tensor
    """int64 [number of yes tokens]."""
    no: Tensor
    """int64 [number of no tokens]."""


class PromptStyle(NamedTuple):
    """How a question is put to the model, around its own words."""

    image_first: bool = True
    """The image before the question, so that the paraphrases of an image share all of it; else behind."""
    system: str | None = None
    """System instruction; None for none."""
    answer_instruction: str | None = None
    """Said behind every closed question, e.g. "Answer yes or no."; None for nothing."""
    normalize: bool = False
    """Every wording is put in one form first (interp.questions.canonical), the published baseline against flips."""


DEFAULT_STYLE = PromptStyle()


def answer_tokens(tokenizer: Any) -> AnswerTokens:
    """Find the yes and no tokens in the tokenizer's vocabulary (`yes`, `Yes`, `▁yes`, ...).

    Raises InputError if the vocabulary has none for one of the answers.
    """
    found: dict[str, list[int]] = {"yes": [], "no": []}
    for token, index in tokenizer.get_vocab().items():
        word = token.replace("▁", " ").replace("Ġ", " ").strip().lower()
        if word in found:
            found[word].append(index)
    for word, ids in found.items():
        if not ids:
            raise InputError(f"The tokenizer has no single token for the answer {word!r}, so no answer margin exists.")
    return AnswerTokens(torch.tensor(sorted(found["yes"])), torch.tensor(sorted(found["no"])))


def answer_margin(logits: Tensor, tokens: AnswerTokens) -> Tensor:
    """m = logsumexp of the yes logits - logsumexp of the no logits.

    `logits` [..., vocabulary] at the first answer position -> [...] in logits, positive for yes, in float32.
    """
    logits = logits.float()
    yes, no = (logits[..., to_device_async(ids, logits.device)].logsumexp(-1) for ids in tokens)
    return yes - no


def prompt_tokens(
    processor: Any,
    texts: Sequence[str],
    closed: Sequence[bool] | None = None,
    style: PromptStyle = DEFAULT_STYLE,
    with_image: Sequence[bool] | None = None,
) -> list[list[int]]:
    """Token ids of each question in the chat template, image placeholder expanded.

    `closed` says which are yes/no questions, which `style` may treat apart, `with_image` which have an image (by
    default all). The same ids as `processor.apply_chat_template(..., tokenize=True)`, without touching pixels. Raises
    InputError if a text holds what stands for an image.
    """
    if not texts:
        return []
    for written in {processor.tokenizer.boi_token, processor.tokenizer.image_token}:
        if any(written in text for text in texts):
            raise InputError(f"A wording holds {written!r}, which stands for an image. Take it out of the questions.")
    closed = closed if closed is not None else [False] * len(texts)
    with_image = with_image if with_image is not None else [True] * len(texts)
    messages = [_messages(*asked, style) for asked in zip(texts, closed, with_image, strict=True)]
    rendered = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    tokenizer = processor.tokenizer
    expanded = [text.replace(tokenizer.boi_token, processor.full_image_sequence) for text in rendered]
    return tokenizer(expanded, add_special_tokens=False)["input_ids"]


def _messages(text: str, closed: bool, with_image: bool, style: PromptStyle) -> list[dict[str, Any]]:
    if style.normalize:
        from interp.questions.canonical import normalize

        text = normalize(text)
    if closed and style.answer_instruction:
        text = f"{text} {style.answer_instruction}"
    content = [{"type": "image"}] * with_image + [{"type": "text", "text": text}]
    user = {"role": "user", "content": content if style.image_first else content[::-1]}
    if style.system is None:
        return [user]
    return [{"role": "system", "content": [{"type": "text", "text": style.system}]}, user]


def first_answer_token(tokenizer: Any, answer: str) -> int:
    """The token that an answer begins with, right after the generation prompt."""
    return tokenizer(answer.strip(), add_special_tokens=False)["input_ids"][0]

"""Prompts: from a question to token ids through the chat template, and the tokens that mean yes and no."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from interp.runtime.async_copies import to_device_async
from interp.runtime.errors import InputError


class AnswerTokens(NamedTuple):
    """Token ids that count as each closed answer, in any case and with or without a leading space."""

    yes: Tensor
    """Ids of the tokens that mean yes: int64 [number of yes tokens]."""
    no: Tensor
    """Ids of the tokens that mean no: int64 [number of no tokens]."""


class PromptStyle(NamedTuple):
    """How a question is put to the model, apart from its own words."""

    image_first: bool = True
    """Whether the image precedes the question, so that the paraphrases about an image share its computation."""
    system: str | None = None
    """System instruction; None gives none."""
    answer_instruction: str | None = None
    """Text appended to every closed question, e.g. "Answer yes or no."; None appends nothing."""
    normalize: bool = False
    """Whether every wording is first rewritten to one canonical form (`interp.questions.canonical`).

    This is the published baseline against flips.
    """


DEFAULT_STYLE = PromptStyle()
"""Image first, no system instruction, wordings as they are."""


def answer_tokens(tokenizer: Any) -> AnswerTokens:
    """Find the yes and no tokens in the tokenizer's vocabulary (`yes`, `Yes`, `▁yes`, ...).

    Raises InputError if the vocabulary has no token for one of the answers.
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
    """The answer margin m = logsumexp(yes logits) - logsumexp(no logits), the field's logit difference.

    `logits` [..., vocabulary] are those of the first answer token; the result is float32 [...] [logits], positive for
    yes.
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
    """Token ids of each question in the chat template, with the image placeholder expanded.

    `closed` marks yes/no questions, to which `style` may add an instruction (by default none), and `with_image` marks
    questions with an image (by default all). The ids equal those of `processor.apply_chat_template(...,
    tokenize=True)`, but no pixels are needed. Raises InputError if a text contains an image placeholder.
    """
    if not texts:
        return []
    for placeholder in {processor.tokenizer.boi_token, processor.tokenizer.image_token}:
        if any(placeholder in text for text in texts):
            raise InputError(
                f"A wording contains {placeholder!r}, which stands for an image. Remove it from the questions."
            )
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
    """Id of the first token of an answer, as it follows the generation prompt."""
    return tokenizer(answer.strip(), add_special_tokens=False)["input_ids"][0]

"""Prompts: from a question to token ids through the chat template, and the tokens that mean yes and no."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

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
    """How a question is put to the model, apart from its own words.

    >>> style = interp.PromptStyle(image_first=False, answer_instruction="Answer yes or no.")
    >>> interp.load_vlm(style=style).style.image_first
    False
    """

    image_first: bool = True
    """Whether the image precedes the question, so that the paraphrases about an image share its computation."""
    system: str | None = None
    """System instruction; None gives none."""
    answer_instruction: str | None = None
    """Text appended to every closed question, e.g. "Answer yes or no."; None appends nothing."""
    normalize: bool | Literal["psf-med"] = False
    """Whether every wording is first rewritten to one canonical form (`interp.questions.canonical`), ours or PSF-Med's.

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

        >>> logits = vlm.bridge()(**interp.lens_inputs(vlm, questions[0].image, questions[0].question))
        >>> margin = interp.answer_margin(logits[0, -1], vlm.answers)
        >>> abs(margin - measured.margin[0]).item() < 0.01
        True

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
    tokenize=True)`, but no pixels are needed. Raises InputError if a text contains an image placeholder, and if the
    chat template leaves out a text or an image, or puts them in another order.
    """
    if not texts:
        return []
    tokenizer = processor.tokenizer
    for placeholder in {tokenizer.boi_token, tokenizer.image_token}:
        if any(placeholder in text for text in texts):
            raise InputError(
                f"A wording contains {placeholder!r}, which stands for an image. Remove it from the questions."
            )
    closed = closed if closed is not None else [False] * len(texts)
    with_image = with_image if with_image is not None else [True] * len(texts)
    messages = [chat_messages(*asked, style) for asked in zip(texts, closed, with_image, strict=True)]
    rendered = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    expanded = [text.replace(tokenizer.boi_token, processor.full_image_sequence) for text in rendered]
    # As in transformers, the tokenizer adds the first token if the template has not.
    starts = tokenizer.bos_token is not None and rendered[0].startswith(tokenizer.bos_token)
    found = tokenizer(expanded, add_special_tokens=not starts)["input_ids"]
    for prompt in zip(messages, rendered, found, strict=True):
        _check_prompt(processor, style.image_first, *prompt)
    return found


def _check_prompt(
    processor: Any, image_first: bool, messages: Sequence[dict[str, Any]], rendered: str, ids: list[int]
) -> None:
    """Raise InputError unless a prompt holds all that was asked for, each image once, and at most one first token."""
    tokenizer = processor.tokenizer
    parts = [(message["role"], part) for message in messages for part in message["content"]]
    said = {role: part["text"].strip() for role, part in parts if part["type"] == "text"}
    for role, text in said.items():
        if text not in rendered:
            what = "the system instruction" if role == "system" else "the question"
            raise InputError(f"The chat template leaves out {what} {text!r}. Copy the base model's chat template.")
    images = sum(part["type"] == "image" for _, part in parts)
    found, expected = ids.count(tokenizer.image_token_id), images * processor.image_seq_length
    if found != expected:
        raise InputError(
            f"The chat template and the tokenizer give {found} image tokens in a prompt with {images} images, expected "
            f"{expected}. Copy chat template, tokenizer and processor from the base model."
        )
    image, text = rendered.find(tokenizer.boi_token), said["user"]
    if images and not (image < rendered.rfind(text) if image_first else rendered.find(text) < image):
        order = "before" if image_first else "after"
        raise InputError(
            f"The chat template does not put the image {order} the question, as --image-first and "
            "--question-first ask. Copy the base model's chat template."
        )
    if tokenizer.bos_token_id is not None and ids.count(tokenizer.bos_token_id) > 1:
        raise InputError(
            f"A prompt has {ids.count(tokenizer.bos_token_id)} tokens {tokenizer.bos_token!r}, expected one at its "
            "start. Remove the others from the chat template."
        )


def chat_messages(text: str, closed: bool, with_image: bool, style: PromptStyle) -> list[dict[str, Any]]:
    """The conversation in which a question is asked, as chat templates take it."""
    if style.normalize:
        from interp.questions.canonical import normalize

        text = normalize(text, "psf-med" if style.normalize == "psf-med" else "gatescope")
    if closed and style.answer_instruction:
        text = f"{text} {style.answer_instruction}"
    image = [{"type": "image"}] if with_image else []
    content: list[dict[str, Any]] = [*image, {"type": "text", "text": text}]
    user = {"role": "user", "content": content if style.image_first else content[::-1]}
    if style.system is None:
        return [user]
    return [{"role": "system", "content": [{"type": "text", "text": style.system}]}, user]


def first_answer_token(tokenizer: Any, answer: str) -> int:
    """Id of the first token of an answer, as it follows the generation prompt."""
    return tokenizer(answer.strip(), add_special_tokens=False)["input_ids"][0]

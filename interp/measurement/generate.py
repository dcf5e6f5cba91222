"""Greedy decoding of whole answers in the packed engine.

The packed prompts run once and fill a KV cache. Each step then appends one column per prompt, at the prompt's own next
position. Its mask lets it attend to the prefix of its row, its own prompt and its own earlier tokens, so that the
answers are those of the prompts run one by one (tested against transformers' `generate`).
"""

from typing import Any

import pandas as pd
import torch
from torch import Tensor

from interp.measurement.margins import Capture, load_batches, pack_prompts
from interp.model.decoder import decode_kernels, prompt_cache, run_layers, run_packed
from interp.model.memory_model import answering_tokens
from interp.model.packing import Batch, batches, in_reach
from interp.model.room import least_size
from interp.model.vlm import Vlm
from interp.runtime.errors import InputError


@torch.no_grad()
def generate(
    vlm: Vlm,
    prompts: pd.DataFrame,
    max_new_tokens: int,
    batch_tokens: int | None = None,
    description: str = "answers",
) -> list[str]:
    """The greedily decoded answer to every row of a prompt table (`image`, `text`, `closed`), stripped.

    An answer ends before the first end token of the model, or after `max_new_tokens`; special tokens are left out. A
    batch holds at most about `batch_tokens` positions, those of the answers included, by default as many as there is
    memory for. `vlm.output_hooks` apply to the answer's tokens as to the prompt's. Raises InputError if
    `max_new_tokens` is below 1, for an unreadable image, and if a logit is not finite.
    """
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens {max_new_tokens}: an answer has at least one token. Use 1 or more.")
    rows = pack_prompts(vlm, prompts)
    growth = max((1 + max_new_tokens * len(row.prompts) / row.length for row in rows), default=1.0)
    answers = [""] * len(prompts)
    if batch_tokens is None:
        batch_tokens = least_size(vlm, vlm.team, answering_tokens)
    size = int(batch_tokens / growth)
    own = vlm.team.share(list(batches(rows, size, vlm.device)))
    for batch, images in load_batches(vlm, own, prompts, description):
        tokens = _decode(vlm, batch, images, max_new_tokens)
        texts = vlm.processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        for prompt, text in zip(batch.prompts, texts, strict=True):
            answers[prompt] = text.strip()
    # In every process but the one that ran its prompt, an answer is empty.
    return ["".join(parts) for parts in zip(*vlm.team.gather_values(answers), strict=True)]


def end_tokens(model: Any) -> list[int]:
    """Token ids that end an answer: those of the generation config, else of the model's config, else none."""
    ends = model.generation_config.eos_token_id
    if ends is None:
        ends = getattr(model.config, "eos_token_id", None)
    return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)


def _decode(vlm: Vlm, batch: Batch, images: Tensor, max_new_tokens: int) -> list[list[int]]:
    """Token ids of the answer to each of the batch's n prompts, without the end token."""
    cache = prompt_cache()
    window = vlm.model.config.text_config.sliding_window
    ends = end_tokens(vlm.model)
    row, column = batch.final.unbind(1)
    slot = batch.segment[row, column] - 1
    hidden = run_packed(vlm.model, batch, images, cache, Capture(vlm, batch, batch.final))
    answered = _most_probable(vlm, hidden[row, column])[:, None]
    segment, position = batch.segment, batch.position_ids
    while answered.shape[1] < max_new_tokens and not torch.isin(answered, answered.new_tensor(ends)).any(1).all():
        step = next_step(batch, answered)
        segment, position = torch.cat([segment, step.segment], 1), torch.cat([position, step.position_ids], 1)
        with decode_kernels(vlm.device):
            masks = step_masks(segment, position, step.segment.shape[1], window)
            embedded = vlm.model.get_input_embeddings()(step.input_ids)
            after = Capture(vlm, step, step.final)
            hidden = run_layers(vlm.model, embedded, masks, step.position_ids, cache=cache, after=after)
        final = vlm.model.model.language_model.norm(hidden[row, slot])
        answered = torch.cat([answered, _most_probable(vlm, final)[:, None]], 1)
    return [_truncate(tokens, ends) for tokens in answered.tolist()]


def next_step(batch: Batch, answered: Tensor) -> Batch:
    """The latest token of every prompt's answer as a batch, with a row's k-th prompt in column k - 1.

    `answered` int64 [n, t] are the answers so far. Rows are padded to the same number of prompts; `final` is empty.
    """
    row, column = batch.final.unbind(1)
    own = batch.segment[row, column]
    shape = (len(batch.input_ids), int(own.max()))
    input_ids, position_ids = own.new_zeros(shape), own.new_zeros(shape)
    segment = own.new_full(shape, -1)
    input_ids[row, own - 1] = answered[:, -1]
    position_ids[row, own - 1] = batch.position_ids[row, column] + answered.shape[1]
    segment[row, own - 1] = own
    return Batch(input_ids, position_ids, segment, batch.final[:0], [], 0)


def step_masks(segment: Tensor, position: Tensor, new: int, sliding_window: int | None) -> dict[str, Tensor]:
    """Boolean masks [B, 1, new, S] (True = may attend) of the last `new` of S columns, for both kinds of layers.

    `segment` and `position` int64 [B, S] are those of all columns, as in `Batch`. The rule is that of
    `interp.model.packing.attention_masks`, with new tokens treated as text whatever their id.
    """
    own, place = segment[:, -new:, None], position[:, -new:, None]
    visible = ((segment[:, None] == 0) | (segment[:, None] == own)) & (own > 0)
    itself = torch.eye(segment.shape[1], dtype=torch.bool, device=segment.device)[None, -new:]
    reach = in_reach(place, position[:, None], sliding_window)
    return {kind: ((visible & reached) | itself)[:, None] for kind, reached in reach.items()}


def _most_probable(vlm: Vlm, hidden: Tensor) -> Tensor:
    """The most probable next tokens, int64 [n], after the hidden states [n, d_model].

    Raises InputError if not finite.
    """
    logits = vlm.model.lm_head(hidden)
    if not torch.isfinite(logits.amax(-1)).all():
        raise InputError("The logits of an answer are not finite. Try --dtype float32, or check the model's weights.")
    return logits.argmax(-1)


def _truncate(tokens: list[int], ends: list[int]) -> list[int]:
    """The tokens before the first end token."""
    return next((tokens[:i] for i, token in enumerate(tokens) if token in ends), tokens)

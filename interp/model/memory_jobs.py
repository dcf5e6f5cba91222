"""What each command needs of a device's memory, and which of its options would make that less."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from interp.model.memory_model import (
    BATCH_TOKENS,
    FEWEST_TOKENS,
    OCCLUDED_IMAGES,
    Format,
    Need,
    Part,
    adapter_bytes,
    forward_bytes,
    gradient_bytes,
    rerun_bytes,
    step_bytes,
    tower_pass,
    weights,
)
from interp.model.prompt_bound import PromptBound
from interp.model.shape import ITEM, ModelShape

Needs = Callable[[ModelShape, Format], Need]
"""What something needs with a model of some shape and format."""
SAE_FEATURES = 16384
"""Features of an SAE of Gemma Scope 2's smallest width, 16k."""
OCCLUSION_TOKENS, GRADIENT_TOKENS = 4096, 2048
"""Positions of a pass with removed parts of images, and of one that computes gradient maps."""


class Job(NamedTuple):
    """What a command does, as far as memory is concerned."""

    needs: Needs
    """What it needs as it was asked for."""
    smaller: Mapping[str, Needs] = MappingProxyType({})
    """Options that make it smaller -> what it needs with them."""


def loading() -> Job:
    """Loading a model and reading an image."""
    return Job(lambda shape, format: Need([weights(shape, format)], [tower_pass(shape, format, 1)]))


def measuring(batch_tokens: int = BATCH_TOKENS, asked: Sequence[PromptBound] = ()) -> Job:
    """Running prompts once: `finetune evaluate`, `interp transfer-check`, `interp verify`, `interp export-activations`.

    Generated answers keep the keys and values of their batch. `asked` are all tables of prompts that will be run, which
    may be less than a batch; without them there are more.
    """

    def needs(shape: ModelShape, format: Format) -> Need:
        whole = batch(shape, format, batch_tokens)
        parts = [batch(shape, format, bound.tokens(shape), bound.generated) for bound in asked]
        largest = min(whole, max(parts, key=_least, default=whole), key=_least)
        return Need([weights(shape, format)], [tower_pass(shape, format), largest])

    return Job(needs)


def _least(part: Part) -> int:
    return part.least


def batch(shape: ModelShape, format: Format, tokens: int, generated: int = 0) -> Part:
    """A forward pass with the keys and values of its tokens, and of those that are `generated` after them."""
    size = forward_bytes(shape, format, tokens) + shape.kv_bytes(tokens + generated, format.dtype)
    return Part(f"a batch of {tokens} tokens", size, size)


def searching(
    saes: int, features: int = SAE_FEATURES, sae_dtype: str = "float32", batch_tokens: int = BATCH_TOKENS
) -> Job:
    """`interp find-features` with SAEs of `saes` layers and `features` features each; `interp test-feature` has one.

    SAEs that do not fit are read again when they are needed, and causal sweeps take smaller batches.
    """

    def needs(shape: ModelShape, format: Format, tokens: int = batch_tokens, dtype: str = sae_dtype) -> Need:
        sae = 2 * features * shape.width * ITEM[dtype]
        forward = forward_bytes(shape, format, tokens)
        sweeps = [rerun_bytes(shape, format, size) for size in (FEWEST_TOKENS, BATCH_TOKENS)]
        held = [
            weights(shape, format),
            Part(f"SAEs of {saes} layers", sae, saes * sae),
            Part("keys and values between sweeps", 0, shape.kv_bytes(BATCH_TOKENS, format.dtype)),
        ]
        phases = [
            tower_pass(shape, format),
            Part(f"a batch of {tokens} tokens", forward, forward),
            Part("causal sweeps with gradients", *sweeps),
        ]
        return Need(held, phases)

    return Job(
        needs,
        {
            "--batch-tokens 4": lambda shape, format: needs(shape, format, min(4096, batch_tokens)),
            "--batch-tokens 4 --sae-dtype bfloat16": lambda shape, format: needs(
                shape, format, min(4096, batch_tokens), "bfloat16"
            ),
        },
    )


def training(layers: Sequence[int] | None, rank: int, batch_size: int, pass_size: int | None = None) -> Job:
    """`finetune` on `layers`, None for all: the adapter with its optimizer, the frozen layers, a step, the evaluation.

    A step passes `batch_size` questions at once, or `pass_size` if it is given; without it, a step that does not fit is
    divided by itself.
    """

    def needs(shape: ModelShape, format: Format, least: int = pass_size or 1) -> Need:
        trained = list(range(shape.layers)) if layers is None else list(layers)
        adapter = adapter_bytes(shape, len(trained), rank)
        most = max(least, pass_size or batch_size)
        sizes = [step_bytes(shape, format, min(trained), len(trained), n) for n in (least, most)]
        frozen = forward_bytes(shape, format, BATCH_TOKENS)
        held = [weights(shape, format), Part(f"an adapter of rank {rank} with its optimizer", adapter, adapter)]
        phases = [
            tower_pass(shape, format),
            Part(f"a batch of {BATCH_TOKENS} tokens", frozen, frozen),
            Part("a step with one question at a time" if least == 1 else f"passes of {least} questions", *sizes),
            batch(shape, format, BATCH_TOKENS),
        ]
        return Need(held, phases)

    smaller = {"--micro-batch-size 1": lambda shape, format: needs(shape, format, 1)}
    return Job(needs, smaller if (pass_size or 1) > 1 else {})


def grounding() -> Job:
    """`finetune grounding`: removed parts of images, attention, and the gradients of image tokens."""

    def needs(shape: ModelShape, format: Format) -> Need:
        gradients = gradient_bytes(shape, format, GRADIENT_TOKENS)
        phases = [
            tower_pass(shape, format, OCCLUDED_IMAGES),
            batch(shape, format, OCCLUSION_TOKENS),
            Part("gradients of image tokens", gradients, gradients),
        ]
        return Need([weights(shape, format)], phases)

    return Job(needs)

"""What each command needs of a device's memory, and which of its options would make that less."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

from interp.model.memory_model import (
    BATCH_TOKENS,
    FEWEST_GRADIENT_TOKENS,
    FEWEST_TOKENS,
    GRADIENT_TOKENS,
    IMAGES,
    OCCLUDED_IMAGES,
    RERUN_TOKENS,
    Format,
    Need,
    Part,
    adapter_bytes,
    answering_bytes,
    forward_bytes,
    gradient_bytes,
    passing_bytes,
    rerun_bytes,
    step_bytes,
    tower_pass,
    weights,
)
from interp.model.shape import ITEM, ModelShape

Needs = Callable[[ModelShape, Format], Need]
"""What something needs with a model of some shape and format."""
SAE_FEATURES = 16384
"""Features of an SAE of Gemma Scope 2's smallest width, 16k."""
OCCLUSION_TOKENS = 4096
"""Positions of a pass with removed parts of images."""
FILLS = 3
"""What removed parts of an image are filled with, one after the other."""


class Job(NamedTuple):
    """What a command does, as far as memory and kernels are concerned."""

    needs: Needs
    """What it needs as it was asked for."""
    smaller: Mapping[str, Needs] = MappingProxyType({})
    """Options that make it smaller -> what it needs with them."""
    learns: bool = True
    """Whether gradients may pass through whole rows of the language model, and not only through edited tokens."""


def loading() -> Job:
    """Loading a model and reading an image."""
    return Job(lambda shape, format: Need([weights(shape, format)], [tower_pass(shape, format, 1)]))


def measuring(answers: bool = True, captured: int = 0, sae: bool = False) -> Job:
    """Running prompts: `finetune evaluate`, both `verify`, `interp transfer-check`, `interp export-activations`.

    Batches are smaller where there is too little memory. `answers` are generated, `captured` is the number of layers of
    which the residuals at all text tokens are kept, and `sae` says whether an SAE is held.
    """

    def needs(shape: ModelShape, format: Format) -> Need:
        passing = partial(passing_bytes, shape, format, captured=captured)
        size = partial(answering_bytes, shape, format) if answers else passing
        held = sae_bytes(shape, SAE_FEATURES, "float32") if sae else 0
        return Need([weights(shape, format), Part("an SAE", held, held)], [tower_pass(shape, format), batch(size)])

    return Job(needs, learns=False)


def batch(size: Callable[[int], int]) -> Part:
    """A batch of prompts of some `size`, tokens -> bytes, which is smaller where there is too little memory."""
    return Part("a batch of prompts", size(FEWEST_TOKENS), size(BATCH_TOKENS))


def sae_bytes(shape: ModelShape, features: int, dtype: str) -> int:
    """The matrices of an SAE [bytes]."""
    return 2 * features * shape.width * ITEM[dtype]


def searching(
    saes: int, features: int = SAE_FEATURES, sae_dtype: str = "float32", batch_tokens: int = BATCH_TOKENS
) -> Job:
    """`interp find-features` with SAEs of `saes` layers and `features` features each; `interp test-feature` has one.

    SAEs that do not fit are read again when they are needed, and causal sweeps take smaller batches.
    """

    def needs(shape: ModelShape, format: Format, tokens: int = batch_tokens, dtype: str = sae_dtype) -> Need:
        sae, forward = sae_bytes(shape, features, dtype), forward_bytes(shape, format, tokens)
        sweeps = [rerun_bytes(shape, format, size) for size in (FEWEST_TOKENS, RERUN_TOKENS)]
        held = [
            weights(shape, format),
            Part(f"SAEs of {saes} layers" if saes > 1 else "an SAE", sae, saes * sae),
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
        learns=False,
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
        held = [weights(shape, format), Part(f"an adapter of rank {rank} with its optimizer", adapter, adapter)]
        phases = [
            tower_pass(shape, format),
            Part("a step with one question at a time" if least == 1 else f"passes of {least} questions", *sizes),
            batch(partial(answering_bytes, shape, format)),
        ]
        return Need(held, phases)

    smaller = {"--micro-batch-size 1": lambda shape, format: needs(shape, format, 1)}
    return Job(needs, smaller if (pass_size or 1) > 1 else {})


def grounding() -> Job:
    """`finetune grounding`: removed parts of images, attention, and the gradients of image tokens.

    Passes of the vision tower and of gradients take fewer images and tokens where there is too little memory.
    """

    def needs(shape: ModelShape, format: Format) -> Need:
        forward = forward_bytes(shape, format, OCCLUSION_TOKENS)
        removed = FILLS * shape.image_tokens**2 * shape.width * ITEM[format.dtype]
        images = [tower_pass(shape, format, count).least for count in (IMAGES, OCCLUDED_IMAGES)]
        gradients = [gradient_bytes(shape, format, tokens) for tokens in (FEWEST_GRADIENT_TOKENS, GRADIENT_TOKENS)]
        held = [weights(shape, format), Part("tokens of an image without each of its parts", removed, removed)]
        phases = [
            Part("images in the vision tower", *images),
            Part(f"a batch of {OCCLUSION_TOKENS} tokens", forward, forward),
            Part("gradients of image tokens", *gradients),
        ]
        return Need(held, phases)

    return Job(needs)

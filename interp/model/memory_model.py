"""What the commands need of a device's memory, counted from the shape of the model before anything is loaded.

The counts are those of tensors that are alive together at the peak of each phase. Allocators add a few percent, and a
CUDA context half a GiB outside of torch. `tests/test_memory_model.py` compares the counts with measured peaks.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from interp.model.shape import ITEM, LoadIn, ModelShape
from interp.runtime.memory import GIB

BATCH_TOKENS = 16384
"""Most positions in a forward pass, unless there is too little memory for them."""
RERUN_TOKENS = 32768
"""Most positions of a batch whose final tokens are rerun: sweeps over fewer launch kernels for little work."""
FEWEST_TOKENS = 1024
"""Positions in the smallest forward pass that is tried: an image of 256 tokens with all of its wordings."""
GRADIENT_SHARE = 8
"""Positions of a pass that computes gradients: those of a forward pass divided by this."""
IMAGES, OCCLUDED_IMAGES = 8, 32
"""Images that pass the vision tower together, in most commands, and at most while parts of images are removed."""
GRADIENT_TOKENS, FEWEST_GRADIENT_TOKENS = 2048, 512
"""Most positions in a pass that computes gradients of image tokens, and those with one question at a time."""
PAIR = 48
"""Positions of two wordings after their image, in training [tokens]."""
WORDING = 38
"""Positions to a prompt in a packed batch: 12 wordings after their image, as in PSF-Med's MIMIC part [tokens]."""


class Part(NamedTuple):
    """Something that takes memory on the device."""

    what: str
    """What it is, in words for a user."""
    least: int
    """Memory without which the run cannot go on [bytes]."""
    wanted: int
    """Memory that it takes where there is enough [bytes]."""


class Need(NamedTuple):
    """What a job needs on the device: parts that stay, and phases of which one runs at a time."""

    held: list[Part]
    """Parts that are there from the beginning to the end, the weights first."""
    phases: list[Part]
    """Working memory of each phase."""

    @property
    def least(self) -> int:
        """Memory without which the job cannot run [bytes]."""
        return sum(part.least for part in self.held) + max(part.least for part in self.phases)

    @property
    def wanted(self) -> int:
        """Memory that the job takes where there is enough [bytes]."""
        return sum(part.wanted for part in self.held) + max(part.wanted for part in self.phases)

    def on_each(self, gpus: int) -> "Need":
        """What each of several GPUs needs that share the layers: its part of the weights, and all of the rest.

        The rest is needed where the layer is that runs, and on the first GPU.
        """
        first, *held = self.held
        return Need([first._replace(least=first.least // gpus, wanted=first.wanted // gpus), *held], self.phases)

    @property
    def largest_phase(self) -> Part:
        """The phase that needs most."""
        return max(self.phases, key=lambda part: part.least)


class Format(NamedTuple):
    """How a model's numbers are kept."""

    dtype: str = "bfloat16"
    """Number format of the computation and of all weights that are not quantized."""
    load_in: LoadIn | None = None
    """Format of the decoder's projections; None if they are not quantized."""


def weights(shape: ModelShape, format: Format) -> Part:
    """The weights of the model, and one layer's projections as they are multiplied if they are quantized."""
    size = shape.weight_bytes(*format)
    if format.load_in:
        size += shape.width * shape.mlp * ITEM[format.dtype]
    return Part("weights", size, size)


def tower_pass(shape: ModelShape, format: Format, images: int = IMAGES) -> Part:
    """Images in the vision tower: residuals, queries, keys and values, and the wide part of an MLP twice."""
    size = images * shape.patches * (5 * shape.tower_width + 2 * shape.tower_mlp) * ITEM[format.dtype]
    return Part(f"{images} images in the vision tower", size, size)


def forward_bytes(shape: ModelShape, format: Format, tokens: int) -> int:
    """Memory of a forward pass over packed prompts [bytes].

    The peak is in an MLP: the residual stream, its norm, the result, and three tensors of the inner width. The logits
    of the final tokens come after it.
    """
    layer = tokens * 3 * (shape.width + shape.mlp)
    logits = 2 * (tokens // WORDING) * shape.vocabulary
    return max(layer, logits) * ITEM[format.dtype]


def passing_bytes(shape: ModelShape, format: Format, tokens: int, captured: int = 0) -> int:
    """Memory of a forward pass that keeps the residuals of `captured` layers at all positions [bytes]."""
    return forward_bytes(shape, format, tokens) + captured * tokens * shape.width * ITEM[format.dtype]


def answering_bytes(shape: ModelShape, format: Format, tokens: int) -> int:
    """Memory of a forward pass that keeps the keys and values of its positions [bytes]."""
    return forward_bytes(shape, format, tokens) + shape.kv_bytes(tokens, format.dtype)


def gradient_bytes(shape: ModelShape, format: Format, tokens: int) -> int:
    """What a backward pass over some positions keeps of the forward pass, in all layers [bytes].

    In each layer: the inputs of four norms, queries before and after their norm and the output of attention, keys and
    values likewise, and the two inputs of the gated activation. Frozen projections keep nothing.
    """
    return layer_gradient_bytes(shape, format, tokens) * shape.layers


def layer_gradient_bytes(shape: ModelShape, format: Format, tokens: int) -> int:
    """`gradient_bytes` of one layer."""
    return tokens * (4 * shape.width + 3 * shape.queries + 3 * shape.keys + 2 * shape.mlp) * ITEM[format.dtype]


def rerun_bytes(shape: ModelShape, format: Format, tokens: int) -> int:
    """Working memory of a causal sweep with gradients over a batch of `tokens` positions [bytes].

    Its keys and values, their copies for every query head, which the backward pass keeps, and the edited positions.
    """
    copies = 1 + shape.heads / shape.kv_heads
    edited = gradient_bytes(shape, format, tokens // GRADIENT_SHARE)
    return int(copies * shape.kv_bytes(tokens, format.dtype)) + edited


def rerun_tokens(shape: ModelShape, format: Format, free: int) -> int:
    """Positions of a batch whose causal sweeps take at most half of the `free` memory [bytes], a power of two.

    Between FEWEST_TOKENS and RERUN_TOKENS, whatever there is.
    """
    return _halved(RERUN_TOKENS, FEWEST_TOKENS, lambda tokens: 2 * rerun_bytes(shape, format, tokens), free)


def passing_tokens(shape: ModelShape, format: Format, free: int, captured: int = 0) -> int:
    """Positions of a forward pass in `free` bytes of memory that keeps the residuals of `captured` layers.

    A power of two between FEWEST_TOKENS and BATCH_TOKENS, whatever there is.
    """
    size = partial(passing_bytes, shape, format, captured=captured)
    return _halved(BATCH_TOKENS, FEWEST_TOKENS, size, free)


def answering_tokens(shape: ModelShape, format: Format, free: int) -> int:
    """Positions of a batch, those of its answers included, of which all keys and values fit into `free` bytes.

    A power of two between FEWEST_TOKENS and BATCH_TOKENS, whatever there is.
    """
    return _halved(BATCH_TOKENS, FEWEST_TOKENS, partial(answering_bytes, shape, format), free)


def occluded_images(shape: ModelShape, format: Format, free: int) -> int:
    """Images with removed parts that pass the vision tower together in `free` bytes, from IMAGES to OCCLUDED_IMAGES."""
    return _halved(OCCLUDED_IMAGES, IMAGES, lambda images: tower_pass(shape, format, images).least, free)


def gradient_tokens(shape: ModelShape, format: Format, free: int) -> int:
    """Positions of a pass that computes gradients of image tokens in `free` bytes of memory, a power of two.

    Between FEWEST_GRADIENT_TOKENS and GRADIENT_TOKENS, whatever there is.
    """
    size = partial(gradient_bytes, shape, format)
    return _halved(GRADIENT_TOKENS, FEWEST_GRADIENT_TOKENS, size, free)


def _halved(most: int, fewest: int, size: Callable[[int], int], free: int) -> int:
    """`most`, or half of it as often as that is above `fewest` and its `size` [bytes] above what is `free` [bytes]."""
    while most > fewest and size(most) > free:
        most //= 2
    return most


def adapter_bytes(shape: ModelShape, layers: int, rank: int) -> int:
    """A LoRA on all projections of `layers` layers, its gradient and AdamW's two moments, in float32 [bytes]."""
    per_rank = 7 * shape.width + 2 * shape.queries + 2 * shape.keys + 3 * shape.mlp
    return 4 * ITEM["float32"] * layers * rank * per_rank


def step_bytes(shape: ModelShape, format: Format, first: int, layers: int, questions: int) -> int:
    """What a training step keeps for its backward pass, from the lowest trained layer `first` on [bytes].

    Each projection of the trained `layers` has a dropout of its own, which keeps its input and a mask of bytes. The
    loss keeps some six copies of the logits of both wordings in float32.
    """
    tokens = questions * (shape.image_tokens + PAIR)
    kept = max(0, shape.layers - first) * layer_gradient_bytes(shape, format, tokens)
    inputs = 5 * shape.width + shape.queries + shape.mlp
    dropped = layers * tokens * inputs * (ITEM[format.dtype] + 1)
    return kept + dropped + 2 * questions * shape.vocabulary * ITEM["float32"] * 6


def in_gib(size: float, free: float | None = None) -> float:
    """Bytes in GiB, rounded to a tenth.

    Beside what is `free` [bytes], rounded alike, they are at most as much if they fit into it, and else more.
    """
    shown = round(size / GIB, 1)
    if free is None:
        return shown
    return min(shown, in_gib(free)) if size <= free else max(shown, round(in_gib(free) + 0.1, 1))


def gib(size: float, free: float | None = None) -> str:
    """Bytes in words, as 8.0 GiB, rounded as by `in_gib`."""
    return f"{in_gib(size, free):.1f} GiB"

"""Which attention kernel is the fastest at MedGemma-4B's shapes? Needs a GPU.

    python tests/benchmarks/attention.py [--images 8]

The vision tower attends over 4,096 patches with 16 heads of width 72 and no mask, the language model over packed rows
with 8 query heads of width 256 that share 4 key heads and with a mask. Each of PyTorch's kernels, its flex attention,
FlashAttention 4 (the package flash-attn-4, if it is installed) and our kernels (if they fit the GPU) get the same
random bfloat16 numbers. `off` is the largest difference from float32, `first_s` the time of the first call, in which
some of them compile.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import pandas as pd
import torch
from shape import report, seconds
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from interp.model.decoder import additive
from interp.model.key_heads import attend_shared, fits_masked
from interp.model.tower_attention import attend_tower, fits_tower

PATCHES, TOWER_HEADS, TOWER_WIDTH = 4096, 16, 72
ROWS, POSITIONS, HEADS, KEY_HEADS, WIDTH = 24, 744, 8, 4, 256
BACKENDS = {
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "FlashAttention 2": SDPBackend.FLASH_ATTENTION,
    "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
}
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries, keys and values [B, heads, S, width] -> outputs of the same shape as the queries."""


def by_backend(backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
    """PyTorch's attention with one kernel."""
    with sdpa_kernel(backend):
        return scaled_dot_product_attention(q, k, v, **options)


def flash_attention_4(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """FlashAttention 4, which takes heads and positions the other way round."""
    from flash_attn.cute.interface import flash_attn_func

    found = flash_attn_func(*(each.transpose(1, 2) for each in (q, k, v)))
    return (found[0] if isinstance(found, tuple) else found).transpose(1, 2)


def own(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The kernel of `interp.model.tower_attention`, which takes and gives heads and positions like transformers."""
    return attend_tower(q, k, v, q.shape[-1] ** -0.5).transpose(1, 2)


def tower_kernels(queries: Tensor) -> dict[str, Attention]:
    """The kernels for attention without a mask."""
    from torch.nn.attention.flex_attention import flex_attention

    found: dict[str, Attention] = {"PyTorch's choice": scaled_dot_product_attention}
    found |= {name: partial(by_backend, backend) for name, backend in BACKENDS.items()}
    found["flex attention"] = torch.compile(flex_attention)
    if find_spec("flash_attn") is not None:
        found["FlashAttention 4"] = flash_attention_4
    if fits_tower(queries, None):
        found["own"] = own
    return found


def repeated(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """As in transformers: the key heads are repeated first."""
    k, v = (each.repeat_interleave(len(q[0]) // len(k[0]), 1) for each in (k, v))
    return scaled_dot_product_attention(q, k, v, attn_mask=mask)


def packed_kernels(inputs: tuple[Tensor, Tensor, Tensor], mask: Tensor) -> dict[str, Attention]:
    """The kernels for attention with a mask over shared key heads."""
    shared = partial(by_backend, SDPBackend.CUDNN_ATTENTION, attn_mask=mask, enable_gqa=True)
    found: dict[str, Attention] = {"repeated heads": partial(repeated, mask=mask), "cuDNN, shared heads": shared}
    if fits_masked(*inputs, mask):
        scaling = inputs[0].shape[-1] ** -0.5
        found["own"] = lambda q, k, v: attend_shared(None, q, k, v, mask, scaling=scaling)[0].transpose(1, 2)
    return found


def compare(kernels: dict[str, Attention], inputs: tuple[Tensor, Tensor, Tensor], expected: Tensor) -> pd.DataFrame:
    """Time and error of each kernel; the operations are those of the true width, without a mask."""
    q, k, _ = inputs
    flop = 4 * q.numel() * k.shape[2]
    rows = {}
    for name, attention in kernels.items():
        started = time.perf_counter()
        try:
            found = attention(*inputs)
            torch.cuda.synchronize()
        except RuntimeError as error:
            print(f"{name}: {str(error).splitlines()[0][:100]}")
            continue
        first = time.perf_counter() - started
        off = float((found[: len(expected)].float() - expected).abs().max())
        taken = seconds(partial(attention, *inputs), 5)
        rows[name] = {"ms": 1e3 * taken, "tflop_per_s": flop / taken / 1e12, "off": off, "first_s": first}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("kernel")


@torch.no_grad()
def main() -> None:
    """Compare the kernels of both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8)
    images = parser.parse_args().images
    generator = torch.Generator("cuda").manual_seed(0)

    def drawn(rows: int, heads: int, positions: int, width: int) -> Tensor:
        """Random numbers that lie in memory as a projection leaves them."""
        found = torch.randn(rows, positions, heads, width, generator=generator, device="cuda")
        return found.bfloat16().transpose(1, 2)

    facts = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    q, k, v = (drawn(images, TOWER_HEADS, PATCHES, TOWER_WIDTH) for _ in range(3))
    expected = scaled_dot_product_attention(*(each[:1].float() for each in (q, k, v)))
    report({**facts, "part": f"tower, {images} images"}, compare(tower_kernels(q), (q, k, v), expected))
    q, k, v = (drawn(ROWS, heads, POSITIONS, WIDTH) for heads in (HEADS, KEY_HEADS, KEY_HEADS))
    seen = torch.ones(POSITIONS, POSITIONS, dtype=torch.bool, device="cuda").tril().repeat(ROWS, 1, 1, 1)
    expected = repeated(*(each[:1].float() for each in (q, k, v)), seen[:1])
    kernels = packed_kernels((q, k, v), additive(seen, q.dtype))
    report({**facts, "part": f"language model, {ROWS} rows"}, compare(kernels, (q, k, v), expected))


if __name__ == "__main__":
    main()

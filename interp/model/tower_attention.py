"""Attention of the vision tower by a kernel for its heads of 72 channels, where it fits and works.

PyTorch's kernels pad such heads to 128 channels. The own kernel is written in Gluon, the lower level of Triton, whose
interface still changes between versions. It is therefore compared with PyTorch's attention before it is used.
"""

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from interp.model.kernel_trial import agrees
from interp.model.key_heads import HOPPER

D_HEAD = 72
"""Channels of a head of the towers of all Gemma 3."""
STEP = 64
"""Patches that the kernel takes together; it needs a multiple of them."""
MOST_OFF = 2**-7
"""Largest difference from float32 attention over standard normal numbers that is rounding to bfloat16: outputs are
below 1 there, and PyTorch's kernels are off by half as much."""


def fits_tower(query: Tensor, mask: Tensor | None) -> bool:
    """Whether the kernel computes attention of `query` [images, heads, patches, d_head], and works on its GPU."""
    return (
        mask is None
        and query.is_cuda
        and query.dtype == torch.bfloat16
        and query.shape[-1] == D_HEAD
        and query.shape[-2] % STEP == 0
        and query.numel() > 0
        and not (torch.is_grad_enabled() and query.requires_grad)
        # Newer GPUs have other instructions, and AMD's count their generations otherwise.
        and torch.version.hip is None
        and torch.cuda.get_device_capability(query.device)[0] == HOPPER
        and _works(query.device)
    )


def attend_tower(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Outputs [images, patches, heads, d_head] of tensors [images, heads, patches, d_head] for which it fits."""
    from interp.model.triton_kernels.tower_attention import attend

    return attend(query, key, value, scale)


@cache
def _works(device: torch.device) -> bool:
    """Whether the kernel can be compiled for this GPU and gives there what PyTorch's attention gives."""

    def difference() -> float:
        generator = torch.Generator(device).manual_seed(0)
        # More patches than one block of queries takes, and heads that lie in memory as a projection leaves them.
        drawn = torch.randn(3, 2, 5 * STEP, 2, D_HEAD, generator=generator, device=device).bfloat16()
        query, key, value = drawn.transpose(2, 3)
        # The later scores of a head exceed the first ones by more than the kernel's numbers hold.
        query[:, 1, :, 0] = 1
        key[:, 1, STEP:, 0] = 200 * D_HEAD**0.5
        expected = F.scaled_dot_product_attention(query.float(), key.float(), value.float())
        found = attend_tower(query, key, value, D_HEAD**-0.5).transpose(1, 2)
        return float((found - expected).abs().max())

    return agrees("the vision tower", difference, MOST_OFF)

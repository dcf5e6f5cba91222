"""Attention again, for heads whose scores spread too far for the kernel of the vision tower.

FlashAttention (Dao et al. 2022) with the highest score so far, in plain Triton. The tower's kernel subtracts the same
number from all scores of a row (`interp.model.triton_kernels.tower_attention`) and marks heads in which a weight then
leaves the range of the numbers, which takes scores that exceed the first ones by 105 to 114. That is not expected of
trained towers, so speed does not matter here; to look at the marks takes some microseconds, and the host does not wait.
"""

import triton
import triton.language as tl
from torch import Tensor

ROWS = 64
"""Queries and keys of a step."""


@triton.jit
def _attend_again(
    q, k, v, out, marked, heads, length, scale,
    q_image, q_head, q_row, k_image, k_head, k_row, v_image, v_head, v_row, out_image, out_head, out_row,
    CHANNELS: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    # Each program handles one head of one image.
    pair = tl.program_id(0)
    if tl.load(marked + pair) == 0:
        return
    image, head = (pair // heads).to(tl.int64), pair % heads
    row, channel = tl.arange(0, ROWS)[:, None], tl.arange(0, WIDTH)[None, :]
    inside = channel < CHANNELS
    queries, keys = q + image * q_image + head * q_head, k + image * k_image + head * k_head
    values, outputs = v + image * v_image + head * v_head, out + image * out_image + head * out_head
    for first in range(0, length, ROWS):
        query = tl.load(queries + (first + row) * q_row + channel, mask=inside, other=0.0)
        top = tl.full([ROWS], float("-inf"), tl.float32)
        total = tl.zeros([ROWS], tl.float32)
        sums = tl.zeros([ROWS, WIDTH], tl.float32)
        for begin in range(0, length, ROWS):
            key = tl.load(keys + (begin + row) * k_row + channel, mask=inside, other=0.0)
            value = tl.load(values + (begin + row) * v_row + channel, mask=inside, other=0.0)
            score = tl.dot(query, tl.trans(key)) * scale
            higher = tl.maximum(top, tl.max(score, 1))
            weight = tl.exp(score - higher[:, None])
            shrink = tl.exp(top - higher)
            total = total * shrink + tl.sum(weight, 1)
            sums = tl.dot(weight.to(value.dtype), value, sums * shrink[:, None])
            top = higher
        tl.store(
            outputs + (first + row) * out_row + channel, (sums / total[:, None]).to(out.dtype.element_ty), mask=inside
        )


def attend_again(q: Tensor, k: Tensor, v: Tensor, out: Tensor, marked: Tensor, scale: float) -> None:
    """Write softmax(q kᵀ scale) v into `out` [images, length, heads, d_head] for heads that `marked` says, in place.

    All are on the current GPU. `q`, `k`, `v` [images, heads, length, d_head] have contiguous channels; `length` is a
    multiple of `ROWS`; `marked` int32 [images * heads] is 0 for heads that stay as they are.
    """
    images, heads, length, channels = q.shape
    strides = [size for x in (q, k, v, out.transpose(1, 2)) for size in x.stride()[:3]]
    sizes = {"CHANNELS": channels, "WIDTH": triton.next_power_of_2(channels), "ROWS": ROWS}
    _attend_again[(images * heads,)](q, k, v, out, marked, heads, length, scale, *strides, **sizes)

"""Attention of the vision tower on a Hopper GPU: heads of 72 channels, no mask, one kernel.

FlashAttention (Dao et al. 2022) in the form of FlashAttention-3 (Shah et al. 2024): one warp loads keys and values,
three warp groups of 64 queries each compute, and a group's softmax overlaps its product of the weights before with the
values. PyTorch's kernels compute heads of 72 channels as if they had 128. Here a head is 64 channels and 16 more, of
which the last are zeros, so the tensor cores compute 80 channels of keys and of values.
"""

from typing import Any

import torch
import triton
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

WIDE = gl.constexpr(64)
"""Channels of the first part of a head."""
NARROW = gl.constexpr(16)
"""Channels of the second part, the fewest that a product sums over; TMA fills those that a head lacks with zeros."""
GROUPS = gl.constexpr(3)
"""Warp groups that compute, each with queries of its own."""
QUERIES = gl.constexpr(64)
"""Queries of a warp group."""
KEYS = gl.constexpr(64)
"""Keys, and values, of a step."""
SLOTS = gl.constexpr(4)
"""Steps whose keys and values fit into shared memory."""
REGISTERS = gl.constexpr(160)
"""Registers of a thread that computes."""
LOG2_E = 1.4426950408889634


@gluon.jit
def _tma_view(buffer, ROWS: gl.constexpr, CHANNELS: gl.constexpr):
    # TMA reads tensors of four dimensions, products read matrices; both see the same bytes.
    layout: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=2 * CHANNELS, element_bitwidth=16, rank=4)
    return buffer._reinterpret(buffer.dtype, [1, 1, ROWS, CHANNELS], layout)


@gluon.jit
def _fetch(wide_in, narrow_in, image, head, row, arrived, wide, narrow, ROWS: gl.constexpr):
    tma.async_copy_global_to_shared(wide_in, [image, head, row, 0], arrived, _tma_view(wide, ROWS, WIDE))
    tma.async_copy_global_to_shared(narrow_in, [image, head, row, WIDE], arrived, _tma_view(narrow, ROWS, NARROW))


@gluon.jit
def _load(inputs, buffers, barriers, place):
    """Fetch the queries and the first keys, then the keys of step j with the values of step j - 1, into slot j."""
    q_wide_in, q_narrow_in, k_wide_in, k_narrow_in, v_wide_in, v_narrow_in = inputs
    q_wide, q_narrow, k_wide, k_narrow, v_wide, v_narrow = buffers
    first, full, empty = barriers
    image, head, query, length = place
    part: gl.constexpr = KEYS * (WIDE + NARROW) * 2
    mbarrier.expect(first, GROUPS * QUERIES * (WIDE + NARROW) * 2 + part)
    for group in gl.static_range(GROUPS):
        row = query + group * QUERIES
        _fetch(q_wide_in, q_narrow_in, image, head, row, first, q_wide.index(group), q_narrow.index(group), QUERIES)
    _fetch(k_wide_in, k_narrow_in, image, head, 0, first, k_wide.index(0), k_narrow.index(0), KEYS)
    steps = length // KEYS
    for step in range(1, steps + 1):
        slot = step % SLOTS
        mbarrier.wait(empty.index(slot), ((step // SLOTS) & 1) ^ 1)
        arrived = full.index(slot)
        mbarrier.expect(arrived, 2 * part, pred=step < steps)
        mbarrier.expect(arrived, part, pred=step == steps)
        if step < steps:
            key = step * KEYS
            _fetch(k_wide_in, k_narrow_in, image, head, key, arrived, k_wide.index(slot), k_narrow.index(slot), KEYS)
        key = (step - 1) * KEYS
        _fetch(v_wide_in, v_narrow_in, image, head, key, arrived, v_wide.index(slot), v_narrow.index(slot), KEYS)


@gluon.jit
def _scores(wide, narrow, k_wide, k_narrow, zero):
    found = warpgroup_mma(wide, k_wide.permute((1, 0)), zero, use_acc=False, is_async=True)
    return warpgroup_mma(narrow, k_narrow.permute((1, 0)), found, is_async=True)


@gluon.jit
def _add_values(weights, values, out, layout: gl.constexpr):
    return warpgroup_mma(gl.convert_layout(weights, gl.DotOperandLayout(0, layout, 2)), values, out, is_async=True)


@gluon.jit
def _wait_until_full(full, step):
    slot = step % SLOTS
    # Slot 0 is filled for the first time in step SLOTS.
    mbarrier.wait(full.index(slot), ((step // SLOTS) + (slot == 0)) & 1)


@gluon.jit
def _attend(outputs, buffers, barriers, place, scale, group: gl.constexpr):
    """Attend from one group's queries over all keys; step j weighs keys j while the values of step j - 1 are summed."""
    wide_out, narrow_out = outputs
    first, full, empty = barriers
    image, head, query, length = place
    q_wide, q_narrow, k_wide, k_narrow, v_wide, v_narrow = buffers
    # The layouts in which products leave their results: a row belongs to the same threads in all three.
    scored: gl.constexpr = gl.NVMMADistributedLayout([3, 0], warps_per_cta=[4, 1], instr_shape=[16, KEYS, 16])
    wides: gl.constexpr = gl.NVMMADistributedLayout([3, 0], warps_per_cta=[4, 1], instr_shape=[16, WIDE, 16])
    narrows: gl.constexpr = gl.NVMMADistributedLayout([3, 0], warps_per_cta=[4, 1], instr_shape=[16, NARROW, 16])
    wide, narrow = q_wide.index(group), q_narrow.index(group)
    zero = gl.zeros([QUERIES, KEYS], gl.float32, scored)
    out_wide = gl.zeros([QUERIES, WIDE], gl.float32, wides)
    out_narrow = gl.zeros([QUERIES, NARROW], gl.float32, narrows)
    steps = length // KEYS

    mbarrier.wait(first, 0)
    score = warpgroup_mma_wait(0, deps=[_scores(wide, narrow, k_wide.index(0), k_narrow.index(0), zero)])
    mbarrier.arrive(empty.index(0), count=1)
    top = gl.max(score, 1) * scale
    weight = gl.exp2(score * scale - top[:, None])
    total = gl.sum(weight, 1)
    before = weight.to(wide.dtype)
    for step in range(1, steps):
        slot = step % SLOTS
        _wait_until_full(full, step)
        score = _scores(wide, narrow, k_wide.index(slot), k_narrow.index(slot), zero)
        out_wide = _add_values(before, v_wide.index(slot), out_wide, wides)
        out_narrow = _add_values(before, v_narrow.index(slot), out_narrow, narrows)
        # The scores are needed now; the two products with the values go on.
        score = warpgroup_mma_wait(2, deps=[score])
        higher = gl.maximum(top, gl.max(score, 1) * scale)
        weight = gl.exp2(score * scale - higher[:, None])
        shrink = gl.exp2(top - higher)
        total = total * shrink + gl.sum(weight, 1)
        top = higher
        before = weight.to(wide.dtype)
        out_wide, out_narrow = warpgroup_mma_wait(0, deps=[out_wide, out_narrow])
        mbarrier.arrive(empty.index(slot), count=1)
        out_wide = out_wide * gl.convert_layout(shrink, gl.SliceLayout(1, wides))[:, None]
        out_narrow = out_narrow * gl.convert_layout(shrink, gl.SliceLayout(1, narrows))[:, None]
    slot = steps % SLOTS
    _wait_until_full(full, steps)
    out_wide = _add_values(before, v_wide.index(slot), out_wide, wides)
    out_narrow = _add_values(before, v_narrow.index(slot), out_narrow, narrows)
    out_wide, out_narrow = warpgroup_mma_wait(0, deps=[out_wide, out_narrow])

    # The outputs leave through the memory of the group's own queries. TMA drops channels and rows that do not exist.
    wide.store((out_wide / gl.convert_layout(total, gl.SliceLayout(1, wides))[:, None]).to(wide.dtype))
    narrow.store((out_narrow / gl.convert_layout(total, gl.SliceLayout(1, narrows))[:, None]).to(wide.dtype))
    fence_async_shared()
    row = query + group * QUERIES
    tma.async_copy_shared_to_global(wide_out, [image, head, row, 0], _tma_view(wide, QUERIES, WIDE))
    tma.async_copy_shared_to_global(narrow_out, [image, head, row, WIDE], _tma_view(narrow, QUERIES, NARROW))
    tma.store_wait(0)


@gluon.jit
def _kernel(
    q_wide_in, q_narrow_in, k_wide_in, k_narrow_in, v_wide_in, v_narrow_in, wide_out, narrow_out, heads, length, scale
):
    query = gl.program_id(0) * (GROUPS * QUERIES)
    image = gl.program_id(1) // heads
    head = gl.program_id(1) % heads
    dtype: gl.constexpr = q_wide_in.dtype
    wide: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=2 * WIDE, element_bitwidth=16, rank=2)
    narrow: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=2 * NARROW, element_bitwidth=16, rank=2)
    barrier: gl.constexpr = mbarrier.MBarrierLayout()
    q_wide = gl.allocate_shared_memory(dtype, [GROUPS, QUERIES, WIDE], wide)
    q_narrow = gl.allocate_shared_memory(dtype, [GROUPS, QUERIES, NARROW], narrow)
    k_wide = gl.allocate_shared_memory(dtype, [SLOTS, KEYS, WIDE], wide)
    k_narrow = gl.allocate_shared_memory(dtype, [SLOTS, KEYS, NARROW], narrow)
    v_wide = gl.allocate_shared_memory(dtype, [SLOTS, KEYS, WIDE], wide)
    v_narrow = gl.allocate_shared_memory(dtype, [SLOTS, KEYS, NARROW], narrow)
    first = gl.allocate_shared_memory(gl.int64, [1], barrier)
    full = gl.allocate_shared_memory(gl.int64, [SLOTS, 1], barrier)
    empty = gl.allocate_shared_memory(gl.int64, [SLOTS, 1], barrier)
    mbarrier.init(first, count=1)
    for slot in gl.static_range(SLOTS):
        mbarrier.init(full.index(slot), count=1)
        mbarrier.init(empty.index(slot), count=GROUPS)
    inputs = (q_wide_in, q_narrow_in, k_wide_in, k_narrow_in, v_wide_in, v_narrow_in)
    buffers = (q_wide, q_narrow, k_wide, k_narrow, v_wide, v_narrow)
    outputs = (wide_out, narrow_out)
    barriers = (first, full, empty)
    place = (image, head, query, length)
    gl.warp_specialize(
        [
            (_attend, (outputs, buffers, barriers, place, scale, 0)),
            (_attend, (outputs, buffers, barriers, place, scale, 1)),
            (_attend, (outputs, buffers, barriers, place, scale, 2)),
            (_load, (inputs, buffers, barriers, place)),
        ],
        [4, 4, 1],
        [REGISTERS, REGISTERS, 24],
    )


def _parts(x: Tensor, rows: int) -> list[Any]:
    """The two parts of the heads of `x` [images, heads, length, d_head], cut into blocks of so many rows."""
    found = []
    for channels in (WIDE.value, NARROW.value):
        layout = gl.NVMMASharedLayout(swizzle_byte_width=2 * channels, element_bitwidth=16, rank=4)
        found.append(TensorDescriptor(x, list(x.shape), list(x.stride()), [1, 1, rows, channels], layout))
    return found


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """softmax(q kᵀ scale) v for `q`, `k`, `v` [images, heads, length, 72], as [images, length, heads, 72].

    The tensors are of 16-bit numbers, their channels contiguous and their other strides multiples of 8; `length` is a
    multiple of `KEYS`. Sums are in float32, the weights of the values are rounded to 16 bits.
    """
    images, heads, length, d_head = q.shape
    out = q.new_empty(images, length, heads, d_head)
    grid = (triton.cdiv(length, GROUPS.value * QUERIES.value), images * heads)
    inputs = [*_parts(q, QUERIES.value), *_parts(k, KEYS.value), *_parts(v, KEYS.value)]
    with torch.cuda.device(q.device):
        _kernel[grid](*inputs, *_parts(out.transpose(1, 2), QUERIES.value), heads, length, scale * LOG2_E, num_warps=4)
    return out

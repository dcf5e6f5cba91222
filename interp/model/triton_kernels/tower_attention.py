"""Attention of the vision tower on a Hopper GPU: heads of 72 channels, no mask, one kernel.

FlashAttention (Dao et al. 2022) in the form of FlashAttention-3 (Shah et al. 2024): one warp loads keys and values,
three warp groups of 64 queries each compute. They take turns, so that one group's softmax overlaps the others'
products, and within a group it overlaps the product of the weights before with the values. Each program stays on its
multiprocessor and takes one block of queries after another.

FlashAttention keeps the highest score so far and rescales the sums when it grows. Softmax does not depend on what is
subtracted from all scores, so this kernel subtracts the highest of the first keys throughout, plus `MARGIN`. A later
score may exceed that by far, as long as the numbers can hold the weights; heads in which they cannot are marked, and
`interp.model.triton_kernels.wide_scores` computes them again.

PyTorch's kernels compute heads of 72 channels as if they had 128. Here a head is 64 channels and 16 more, so the tensor
cores compute 80 channels of keys and of values. Queries and keys are filled up with zeros, values with ones, so that
the product that weighs the values also sums the weights, as they are after rounding.
"""

from typing import Any

import torch
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

from interp.model.triton_kernels.wide_scores import attend_again

WIDE = gl.constexpr(64)
"""Channels of the first part of a head."""
NARROW = gl.constexpr(16)
"""Channels of the second part, the fewest that a product sums over; TMA fills those that a head lacks with zeros."""
HELD = gl.constexpr(8)
"""Channels of the second part that a head has."""
GROUPS = gl.constexpr(3)
"""Warp groups that compute, each with queries of its own."""
QUERIES = gl.constexpr(64)
"""Queries of a warp group."""
KEYS = gl.constexpr(64)
"""Keys, and values, of a step."""
SLOTS = gl.constexpr(4)
"""Steps whose keys and values fit into shared memory."""
Q_SLOTS = gl.constexpr(6)
"""Groups whose queries fit there: those of the next block arrive while this one's are used."""
REGISTERS = gl.constexpr(144)
"""Registers of a thread that computes."""
LOADING = gl.constexpr(56)
"""Registers of a thread that loads."""
MARGIN = gl.constexpr(64.0)
"""What is added to the highest of the first scores before it is subtracted [powers of 2]; its own weight is 2^-64."""
MOST = gl.constexpr(2.0**100)
"""Largest sum of a row's weights that counts as held: outputs are below it times the largest value."""
RENAMED = gl.constexpr(hasattr(gl.shared_memory_descriptor, "reinterpret"))
"""Whether this is Triton 3.9 or newer, where this method has no underscore."""
LOG2_E = 1.4426950408889634
# The names since Triton 3.8, or those before.
_load_tile = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
_store_tile = getattr(tma, "async_store", None) or tma.async_copy_shared_to_global


@gluon.jit
def _tma_view(buffer, ROWS: gl.constexpr, CHANNELS: gl.constexpr):
    # TMA reads tensors of four dimensions, products read matrices; both see the same bytes.
    layout: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=2 * CHANNELS, element_bitwidth=16, rank=4)
    if RENAMED:
        return buffer.reinterpret(buffer.dtype, [1, 1, ROWS, CHANNELS], layout)
    else:
        return buffer._reinterpret(buffer.dtype, [1, 1, ROWS, CHANNELS], layout)


@gluon.jit
def _fetch(wide_in, narrow_in, image, head, row, arrived, wide, narrow, ROWS: gl.constexpr):
    _load_tile(wide_in, [image, head, row, 0], arrived, _tma_view(wide, ROWS, WIDE))
    _load_tile(narrow_in, [image, head, row, WIDE], arrived, _tma_view(narrow, ROWS, NARROW))


@gluon.jit
def _place(block, heads, length, whole):
    """The image, the head and the first query of a block.

    The `whole` blocks in which every group has queries come first, so that the shorter ones fill up the last round.
    Blocks of the same head follow each other, so that programs share its keys and values in the GPU's cache.
    """
    of_head = length // (GROUPS * QUERIES)
    is_whole = block < whole
    pair = gl.where(is_whole, block // gl.maximum(of_head, 1), block - whole)
    row = gl.where(is_whole, block % gl.maximum(of_head, 1), of_head) * (GROUPS * QUERIES)
    return pair // heads, pair % heads, row


@gluon.jit
def _wait(barriers, SIZE: gl.constexpr, turn, free: gl.constexpr):
    """Wait until slot `turn % SIZE` is full for that turn, or `free` for it."""
    mbarrier.wait(barriers.index(turn % SIZE), ((turn // SIZE) & 1) ^ free)


@gluon.jit
def _load(inputs, buffers, barriers, sizes):
    """Fetch each block's queries, and the keys and values of each of its steps, as soon as a slot is free."""
    q_wide_in, q_narrow_in, k_wide_in, k_narrow_in, v_wide_in, v_narrow_in = inputs
    q_wide, q_narrow, k_wide, k_narrow, v_wide, v_narrow = buffers
    q_full, q_empty, arrived, full, empty, _turns = barriers
    heads, length, whole, blocks = sizes
    step = 0
    for block in range(gl.program_id(0), blocks, gl.num_programs(0)):
        image, head, query = _place(block, heads, length, whole)
        turn = block // gl.num_programs(0) * GROUPS
        for group in gl.static_range(GROUPS):
            slot = (turn + group) % Q_SLOTS
            _wait(q_empty, Q_SLOTS, turn + group, 1)
            there = q_full.index(slot)
            mbarrier.expect(there, QUERIES * (WIDE + NARROW) * 2)
            row = query + group * QUERIES
            _fetch(q_wide_in, q_narrow_in, image, head, row, there, q_wide.index(slot), q_narrow.index(slot), QUERIES)
        for key in range(0, length, KEYS):
            slot = step % SLOTS
            _wait(empty, SLOTS, step, 1)
            there = arrived.index(slot)
            mbarrier.expect(there, 2 * KEYS * (WIDE + NARROW) * 2)
            _fetch(k_wide_in, k_narrow_in, image, head, key, there, k_wide.index(slot), k_narrow.index(slot), KEYS)
            _fetch(v_wide_in, v_narrow_in, image, head, key, there, v_wide.index(slot), v_narrow.index(slot), KEYS)
            # What was asked for one step ago has arrived, or will before this step's.
            if step > 0:
                _complete(v_narrow, arrived, full, step - 1)
            step += 1
    _complete(v_narrow, arrived, full, step - 1)


@gluon.jit
def _complete(v_narrow, arrived, full, step):
    """Write ones into the channels that the values of a step lack, once they have arrived."""
    _wait(arrived, SLOTS, step, 0)
    slot = step % SLOTS
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [16, 2], [1, 1], [1, 0])
    values = v_narrow.index(slot).load(layout)
    channel = gl.arange(0, NARROW, gl.SliceLayout(0, layout))[None, :]
    v_narrow.index(slot).store(gl.where(channel < HELD, values, 1.0).to(values.dtype))
    fence_async_shared()
    mbarrier.arrive(full.index(slot), count=1)


@gluon.jit
def _scores(wide, narrow, k_wide, k_narrow, zero):
    found = warpgroup_mma(wide, k_wide.permute((1, 0)), zero, use_acc=False, is_async=True)
    return warpgroup_mma(narrow, k_narrow.permute((1, 0)), found, is_async=True)


@gluon.jit
def _add_values(weights, values, out, layout: gl.constexpr):
    return warpgroup_mma(gl.convert_layout(weights, gl.DotOperandLayout(0, layout, 2)), values, out, is_async=True)


@gluon.jit
def _wait_for_turn(turns, group: gl.constexpr, round):
    # Groups issue their products in order. Phase n of a group's barrier is the n-th time that the one before issued.
    mbarrier.wait(turns.index(group), (round & 1) ^ (1 if group == 0 else 0))


@gluon.jit
def _pass_turn(turns, group: gl.constexpr):
    mbarrier.arrive(turns.index((group + 1) % GROUPS), count=1)


@gluon.jit
def _attend(outputs, buffers, barriers, sizes, scale, group: gl.constexpr):
    """Attend from one group's queries of each block over all keys, while the values of the step before are summed."""
    wide_out, narrow_out, too_wide = outputs
    q_wide, q_narrow, k_wide, k_narrow, v_wide, v_narrow = buffers
    q_full, q_empty, _arrived, full, empty, turns = barriers
    heads, length, whole, blocks = sizes
    # The layouts in which products leave their results: a row belongs to the same threads in all three.
    scored: gl.constexpr = gl.NVMMADistributedLayout([3, 0], warps_per_cta=[4, 1], instr_shape=[16, KEYS, 16])
    wides: gl.constexpr = gl.NVMMADistributedLayout([3, 0], warps_per_cta=[4, 1], instr_shape=[16, WIDE, 16])
    narrows: gl.constexpr = gl.NVMMADistributedLayout([3, 0], warps_per_cta=[4, 1], instr_shape=[16, NARROW, 16])
    zero = gl.zeros([QUERIES, KEYS], gl.float32, scored)
    channel = gl.arange(0, NARROW, gl.SliceLayout(0, narrows))[None, :]
    steps = length // KEYS
    step = 0
    round = 0
    for block in range(gl.program_id(0), blocks, gl.num_programs(0)):
        image, head, query = _place(block, heads, length, whole)
        row = query + group * QUERIES
        turn = block // gl.num_programs(0) * GROUPS + group
        wide, narrow = q_wide.index(turn % Q_SLOTS), q_narrow.index(turn % Q_SLOTS)
        _wait(q_full, Q_SLOTS, turn, 0)
        if row < length:
            out_wide = gl.zeros([QUERIES, WIDE], gl.float32, wides)
            out_narrow = gl.zeros([QUERIES, NARROW], gl.float32, narrows)
            slot = step % SLOTS
            _wait(full, SLOTS, step, 0)
            score = _scores(wide, narrow, k_wide.index(slot), k_narrow.index(slot), zero)
            score = warpgroup_mma_wait(0, deps=[score])
            top = gl.max(score, 1) * scale + MARGIN
            weight = gl.exp2(score * scale - top[:, None]).to(wide.dtype)
            for _ in range(1, steps):
                last = step % SLOTS
                step += 1
                slot = step % SLOTS
                _wait(full, SLOTS, step, 0)
                _wait_for_turn(turns, group, round)
                score = _scores(wide, narrow, k_wide.index(slot), k_narrow.index(slot), zero)
                out_wide = _add_values(weight, v_wide.index(last), out_wide, wides)
                out_narrow = _add_values(weight, v_narrow.index(last), out_narrow, narrows)
                _pass_turn(turns, group)
                round += 1
                # The scores are needed now; the two products with the values go on.
                score = warpgroup_mma_wait(2, deps=[score])
                weight = gl.exp2(score * scale - top[:, None]).to(wide.dtype)
                out_wide, out_narrow = warpgroup_mma_wait(0, deps=[out_wide, out_narrow])
                mbarrier.arrive(empty.index(last), count=1)
            slot = step % SLOTS
            step += 1
            out_wide = _add_values(weight, v_wide.index(slot), out_wide, wides)
            out_narrow = _add_values(weight, v_narrow.index(slot), out_narrow, narrows)
            out_wide, out_narrow = warpgroup_mma_wait(0, deps=[out_wide, out_narrow])
            mbarrier.arrive(empty.index(slot), count=1)

            total = gl.sum(gl.where(channel == HELD, out_narrow, 0.0), 1)
            # A sum that is no number is not below the limit either.
            if gl.min(gl.where(total < MOST, 1, 0), 0) == 0:
                gl.store(too_wide + image * heads + head, 1)
            # The outputs leave through the memory of the group's own queries. TMA drops channels that do not exist.
            wide.store((out_wide / gl.convert_layout(total, gl.SliceLayout(1, wides))[:, None]).to(wide.dtype))
            narrow.store((out_narrow / total[:, None]).to(wide.dtype))
            fence_async_shared()
            _store_tile(wide_out, [image, head, row, 0], _tma_view(wide, QUERIES, WIDE))
            _store_tile(narrow_out, [image, head, row, WIDE], _tma_view(narrow, QUERIES, NARROW))
            tma.store_wait(0)
        else:
            # The others of a short block count on every group.
            for key in range(steps):
                if key > 0:
                    _wait_for_turn(turns, group, round)
                    _pass_turn(turns, group)
                    round += 1
                _wait(full, SLOTS, step, 0)
                mbarrier.arrive(empty.index(step % SLOTS), count=1)
                step += 1
        mbarrier.arrive(q_empty.index(turn % Q_SLOTS), count=1)


@gluon.jit
def _kernel(
    q_wide_in, q_narrow_in, k_wide_in, k_narrow_in, v_wide_in, v_narrow_in, wide_out, narrow_out,
    too_wide, heads, length, whole, blocks, scale,
):  # fmt: skip
    dtype: gl.constexpr = q_wide_in.dtype
    wide: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=2 * WIDE, element_bitwidth=16, rank=2)
    narrow: gl.constexpr = gl.NVMMASharedLayout(swizzle_byte_width=2 * NARROW, element_bitwidth=16, rank=2)
    barrier: gl.constexpr = mbarrier.MBarrierLayout()
    q_wide = gl.allocate_shared_memory(dtype, [Q_SLOTS, QUERIES, WIDE], wide)
    q_narrow = gl.allocate_shared_memory(dtype, [Q_SLOTS, QUERIES, NARROW], narrow)
    k_wide = gl.allocate_shared_memory(dtype, [SLOTS, KEYS, WIDE], wide)
    k_narrow = gl.allocate_shared_memory(dtype, [SLOTS, KEYS, NARROW], narrow)
    v_wide = gl.allocate_shared_memory(dtype, [SLOTS, KEYS, WIDE], wide)
    v_narrow = gl.allocate_shared_memory(dtype, [SLOTS, KEYS, NARROW], narrow)
    q_full = gl.allocate_shared_memory(gl.int64, [Q_SLOTS, 1], barrier)
    q_empty = gl.allocate_shared_memory(gl.int64, [Q_SLOTS, 1], barrier)
    arrived = gl.allocate_shared_memory(gl.int64, [SLOTS, 1], barrier)
    full = gl.allocate_shared_memory(gl.int64, [SLOTS, 1], barrier)
    empty = gl.allocate_shared_memory(gl.int64, [SLOTS, 1], barrier)
    turns = gl.allocate_shared_memory(gl.int64, [GROUPS, 1], barrier)
    for slot in gl.static_range(Q_SLOTS):
        mbarrier.init(q_full.index(slot), count=1)
        mbarrier.init(q_empty.index(slot), count=1)
    for slot in gl.static_range(SLOTS):
        mbarrier.init(arrived.index(slot), count=1)
        mbarrier.init(full.index(slot), count=1)
        mbarrier.init(empty.index(slot), count=GROUPS)
    for group in gl.static_range(GROUPS):
        mbarrier.init(turns.index(group), count=1)
    inputs = (q_wide_in, q_narrow_in, k_wide_in, k_narrow_in, v_wide_in, v_narrow_in)
    buffers = (q_wide, q_narrow, k_wide, k_narrow, v_wide, v_narrow)
    outputs = (wide_out, narrow_out, too_wide)
    barriers = (q_full, q_empty, arrived, full, empty, turns)
    sizes = (heads, length, whole, blocks)
    gl.warp_specialize(
        [
            (_attend, (outputs, buffers, barriers, sizes, scale, 0)),
            (_attend, (outputs, buffers, barriers, sizes, scale, 1)),
            (_attend, (outputs, buffers, barriers, sizes, scale, 2)),
            (_load, (inputs, buffers, barriers, sizes)),
        ],
        [4, 4, 1],
        [REGISTERS, REGISTERS, LOADING],
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

    The tensors are of 16-bit numbers with the range of float32, their channels contiguous and their other strides
    multiples of 8; `length` is a multiple of `KEYS`. Sums are in float32, the weights of the values are rounded to 16
    bits.
    """
    images, heads, length, d_head = q.shape
    out = q.new_empty(images, length, heads, d_head)
    too_wide = torch.zeros(images * heads, dtype=torch.int32, device=q.device)
    whole, rest = divmod(length, GROUPS.value * QUERIES.value)
    whole, blocks = whole * images * heads, (whole + (rest > 0)) * images * heads
    programs = min(blocks, torch.cuda.get_device_properties(q.device).multi_processor_count)
    inputs = [*_parts(q, QUERIES.value), *_parts(k, KEYS.value), *_parts(v, KEYS.value)]
    outputs = [*_parts(out.transpose(1, 2), QUERIES.value), too_wide]
    with torch.cuda.device(q.device):
        _kernel[(programs,)](*inputs, *outputs, heads, length, whole, blocks, scale * LOG2_E, num_warps=4)
        attend_again(q, k, v, out, too_wide, scale)
    return out

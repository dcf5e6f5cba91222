"""Dropout whose mask is a function of a seed, as GPU kernels: it is drawn again in the backward pass and never stored.

An element is dropped if 16 random bits are below p · 2¹⁶, so p is rounded to 1.5e-5. The bits are those of the
counter-based generator Philox 4x32 (Salmon et al. 2011, https://doi.org/10.1145/2063384.2063405) with 7 rounds, which
pass its authors' statistical tests; eight elements share a call of it. torch's kernel calls it for every four.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

ROUNDS = tl.constexpr(7)
"""Rounds of the generator."""
BLOCK = 2048
"""Number of elements per program of `dropped`."""
ROWS, COLUMNS = 32, 256
"""Size of a program of `dropped_pull`."""


@triton.jit
def _kept(seed, call, limit):
    # Calls int32 [R, B] -> bool [R, 8 B].
    a, b, c, d = tl.randint4x(seed, call, ROUNDS)
    words = tl.join(tl.join(a, b), tl.join(c, d))
    halves = tl.join(words & 0xFFFF, words >> 16)
    return tl.reshape(halves, (call.shape[0], 8 * call.shape[1])) >= limit


# Otherwise Triton compiles variants by where a seed lies in memory.
@triton.jit(do_not_specialize_on_alignment=["seed"])
def _dropped(x, seed, y, n, limit, BLOCK: tl.constexpr):
    program = tl.program_id(0)
    at = program.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)[None, :]
    call = program * (BLOCK // 8) + tl.arange(0, BLOCK // 8)[None, :]
    kept = _kept(tl.load(seed), call, limit)
    tl.store(y + at, tl.where(kept, tl.load(x + at, mask=at < n, other=0.0), 0.0), mask=at < n)


@triton.jit(do_not_specialize=["rows"], do_not_specialize_on_alignment=["seed"])
def _dropped_pull(
    low, a, seed, pull, rows, n, rank, limit,
    ADDED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, RANK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    start = tl.program_id(1) * COLUMNS
    column = start + tl.arange(0, COLUMNS)[None, :]
    direction = tl.arange(0, RANK)
    left = tl.load(low + row * rank + direction[None, :], mask=(row < rows) & (direction < rank)[None, :], other=0.0)
    right = tl.load(a + direction[:, None] * n + column, mask=(direction < rank)[:, None] & (column < n), other=0.0)
    call = row * (n // 8) + start // 8 + tl.arange(0, COLUMNS // 8)[None, :]
    found = tl.where(_kept(tl.load(seed), call, limit), tl.dot(left, right), 0.0)
    at, there = row.to(tl.int64) * n + column, (row < rows) & (column < n)
    if ADDED:
        found += tl.load(pull + at, mask=there, other=0.0).to(tl.float32)
    tl.store(pull + at, found.to(pull.dtype.element_ty), mask=there)


def dropped(x: Tensor, seed: Tensor, p: float) -> Tensor:
    """x with a share `p` of its elements replaced by 0, chosen by `seed` int64 []; the others are not scaled.

    `x` [m, n] is contiguous, and n a multiple of 8.
    """
    y = torch.empty_like(x)
    # Triton launches on the current GPU, which may be another one if the model is split over several.
    with torch.cuda.device(x.device):
        _dropped[(triton.cdiv(x.numel(), BLOCK),)](x, seed, y, x.numel(), _limit(p), BLOCK=BLOCK)
    return y


def dropped_pull(low: Tensor, a: Tensor, seed: Tensor, p: float, total: Tensor | None) -> Tensor:
    """The product of `low` [m, r] and A [r, n], 0 where `dropped` replaces elements of [m, n] with this seed: [m, n].

    Both are contiguous, of one 16-bit dtype. The product is added to `total`, contiguous [m, n], in place if that is
    given.
    """
    (rows, rank), n = low.shape, a.shape[1]
    pull = low.new_empty(rows, n) if total is None else total
    with torch.cuda.device(low.device):
        _dropped_pull[(triton.cdiv(rows, ROWS), triton.cdiv(n, COLUMNS))](
            low, a, seed, pull, rows, n, rank, _limit(p),
            ADDED=total is not None, ROWS=ROWS, COLUMNS=COLUMNS, RANK=max(16, triton.next_power_of_2(rank)),
        )  # fmt: skip
    return pull


def _limit(p: float) -> int:
    return round(p * 2**16)

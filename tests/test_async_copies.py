"""Copies between main memory and a GPU. They need one."""

import pytest
import torch

from interp.runtime import async_copies
from interp.runtime.async_copies import copy_to_gpu

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@needs_gpu
def test_tensors_of_any_kind_arrive_unchanged(monkeypatch):
    monkeypatch.setattr(async_copies, "COPIED", 1000)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(37, 53, generator=generator)
    given = [
        drawn,
        drawn.T,
        drawn.bfloat16()[::2],
        drawn.double()[3],
        drawn > 0,
        (drawn * 100).to(torch.int8),
        torch.tensor(7.5),
        torch.empty(0, 3),
    ]
    found = copy_to_gpu(given, torch.device("cuda"))
    for one, other in zip(given, found, strict=True):
        assert other.is_cuda
        assert other.is_contiguous()
        assert other.dtype == one.dtype
        assert torch.equal(other.cpu(), one)


@needs_gpu
def test_copies_wait_for_what_still_uses_their_memory(monkeypatch):
    size = 2**26
    for value in range(5):
        slow = torch.zeros(size, device="cuda")
        for _ in range(200):
            slow.add_(1)
        # The memory goes to the next tensor of this size while the additions are still queued.
        del slow
        (found,) = copy_to_gpu([torch.full((size,), float(value))], torch.device("cuda"))
        assert bool((found == value).all())

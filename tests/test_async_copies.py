"""Copies between main memory and a GPU."""

import pytest
import torch

from interp.runtime import async_copies
from interp.runtime.async_copies import copy_to_gpu, gather_async

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


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
def test_gathered_tensors_are_joined(device):
    parts = list(torch.randn(9, 4, 5, generator=torch.Generator().manual_seed(0)).split([2, 0, 3, 4]))
    # Views and whatever is on the device already, too.
    for given in (parts, [part.transpose(1, 2) for part in parts], [part.to(device) for part in parts]):
        found = gather_async(given, torch.device(device))
        assert found.device.type == device
        assert torch.equal(found.cpu(), torch.cat([part.cpu() for part in given]))
    levels = torch.arange(12, dtype=torch.uint8).view(3, 4)
    assert torch.equal(gather_async([level[None] for level in levels], torch.device(device)).cpu(), levels)


@needs_gpu
def test_a_gathered_copy_holds_up_nobody():
    slow = torch.zeros(2**26, device="cuda")
    for _ in range(300):
        slow.add_(1)
    queued = torch.cuda.current_stream().record_event()
    found = gather_async([torch.ones(1000, 2560), torch.zeros(3, 2560)], torch.device("cuda"))
    assert not queued.query()
    assert float(found.sum()) == 1000 * 2560

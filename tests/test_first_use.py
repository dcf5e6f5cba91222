"""What is loaded early, in threads, is loaded when it has to be; the kernels themselves need a GPU (test_fused)."""

import time
from contextlib import nullcontext

import pytest
import torch

from interp.model import first_use
from interp.model.first_use import kernels_loaded


def test_all_kernels_are_loaded_when_the_block_ends_and_the_first_before_the_others(monkeypatch):
    loaded, first_was_there = [], []

    def slowly(name):
        first_was_there.append("first" in loaded)
        time.sleep(0.05)
        loaded.append(name)

    def wrong():
        raise RuntimeError("no compiler")

    calls = [lambda: slowly("first"), wrong, lambda: slowly("second"), lambda: slowly("third")]
    monkeypatch.setattr(first_use, "find_spec", lambda name: name)
    monkeypatch.setattr(first_use, "kernel_calls", lambda *_: calls)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    with (
        pytest.raises(ValueError, match="of the block"),
        kernels_loaded(None, torch.device("cuda"), torch.bfloat16),
    ):
        raise ValueError("of the block")
    assert sorted(loaded) == ["first", "second", "third"]
    assert first_was_there == [False, True, True]


def test_a_cpu_has_no_kernels_to_load(monkeypatch):
    monkeypatch.setattr(first_use, "kernel_calls", lambda *_: pytest.fail("asked for kernels"))
    with kernels_loaded(None, torch.device("cpu"), torch.float32):
        pass

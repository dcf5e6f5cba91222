"""Digests of weights, and a mapping that is made beside other work."""

import subprocess
import sys
import threading
from hashlib import blake2b

import pytest
import torch

from interp.runtime.later import Later
from interp.storage.checksums import named_digest, tensor_digest


def test_tied_weights_count_under_both_names():
    weight, other = torch.arange(12.0).reshape(3, 4), torch.ones(2, dtype=torch.bfloat16)
    tensors = {"embed": weight, "head": weight, "turned": weight.T, "norm": other}
    by_hand = blake2b(digest_size=16)
    for name, tensor in tensors.items():
        by_hand.update(name.encode() + tensor_digest(tensor.clone()))
    assert named_digest(tensors, 16) == by_hand.hexdigest()
    assert named_digest(tensors | {"head": weight + 1}, 16) != by_hand.hexdigest()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_digest_waits_for_the_work_that_makes_the_tensor():
    a = torch.randn(4096, 4096, device="cuda")
    for _ in range(20):
        b = a @ a
        assert tensor_digest(b) == tensor_digest(b.cpu())


def test_what_is_made_later_is_made_beside_and_once():
    begun, go, made = threading.Event(), threading.Event(), []

    def make():
        begun.set()
        go.wait(10)
        made.append(1)
        return {"a": 1, "b": [2]}

    later = Later(make)
    assert begun.wait(10)
    assert not made
    go.set()
    assert dict(later) == {"a": 1, "b": [2]}
    assert (len(later), later["a"], made) == (2, 1, [1])


def test_an_error_is_raised_where_the_mapping_is_read():
    def fail():
        raise ValueError("unreadable")

    later = Later(fail)
    with pytest.raises(ValueError, match="unreadable"):
        dict(later)


PROGRAM = """
import threading, time
from interp.runtime.later import Later
from interp.storage import checksums

started = threading.Event()

def slow(tensor):
    started.set()
    time.sleep(0.2)
    return b""

checksums._digest = slow
Later(lambda: {"weights": checksums.tensor_digests(map(checksums.torch.full, [(1,)] * 1000, range(1000)))})
started.wait()
raise SystemExit(3)
"""


def test_a_process_that_ends_does_not_wait_for_all_that_is_to_be_hashed():
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=20)
    # All thousand would take 25 s.
    assert (ended.returncode, ended.stderr) == (3, "")


RETURNS_FROM_TORCH = """
import threading
import torch
from interp.runtime.later import Later

begun = threading.Event()

def make():
    square = torch.ones(500, 500)
    begun.set()
    for _ in range(60):
        square @ square
    return {}

Later(make)
begun.wait()
raise SystemExit(3)
"""


def test_a_process_that_ends_while_torch_computes_in_a_thread_is_not_aborted():
    ended = subprocess.run([sys.executable, "-c", RETURNS_FROM_TORCH], capture_output=True, text=True, timeout=20)
    assert (ended.returncode, ended.stderr) == (3, "")
